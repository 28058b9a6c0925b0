package kubernetes

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ryanuber/go-glob"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// The kinds of workload, as targets and the journal name them, and all of them together.
const (
	deployment  = "deployment"
	statefulSet = "statefulset"
	daemonSet   = "daemonset"
	all         = "all"
)

var kinds = []string{deployment, statefulSet, daemonSet}

// resource is what the API calls the objects of a kind.
func resource(kind string) string { return kind + "s" }

// target is what a role names after the connection: one workload, or those of a namespace
// that have certain labels.
type target struct {
	namespace string
	kinds     []string
	name      string // or
	selector  string // in the API's own form
}

// String names the target in a sentence: as it was written but for spaces in a selector, and cut
// where it is long.
func (t *target) String() string {
	kind := all
	if len(t.kinds) == 1 {
		kind = t.kinds[0]
	}
	text := t.namespace + "/" + kind + "/" + t.name + t.selector
	if len(text) > maxShown {
		return text[:maxShown] + "..."
	}
	return text
}

// Bounds of what is written, in bytes.
const (
	maxTarget = 1024
	maxLabel  = 63  // RFC 1123, and a label's value
	maxName   = 253 // RFC 1123, a subdomain
)

// targetForm says what a target looks like.
const targetForm = "namespace/kind/name, such as default/deployment/api, or namespace/kind/selector, such as default/all/app=api"

// parseTarget reads a target. All after the second slash is the name or the selector: the key of
// a label may have a slash, too.
func parseTarget(text string) (*target, error) {
	refused := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "target %s: %s", shown(text), fmt.Sprintf(format, args...))
	}
	parts := strings.SplitN(text, "/", 3)
	switch {
	case len(text) > maxTarget:
		return nil, refused("is longer than %d bytes", maxTarget)
	case len(parts) != 3 || slices.Contains(parts, ""):
		return nil, refused("must be %s", targetForm)
	case !isLabel(parts[0]):
		return nil, refused("the namespace %s must be of lower-case letters, digits and hyphens, at most %d", shown(parts[0]), maxLabel)
	}
	t := &target{namespace: parts[0], kinds: []string{parts[1]}}
	switch {
	case parts[1] == all:
		t.kinds = kinds
		if !selects(parts[2]) {
			return nil, refused("%s needs a label selector such as app=api; for the one of that name write deployment, statefulset or daemonset", all)
		}
	case !slices.Contains(kinds, parts[1]):
		return nil, refused("the kind %s must be deployment, statefulset or daemonset, or all with a label selector", shown(parts[1]))
	}
	if !selects(parts[2]) {
		if !isSubdomain(parts[2]) {
			return nil, refused("the name %s must be of lower-case letters, digits, hyphens and dots, at most %d; a label selector has an operator, as in app=api", shown(parts[2]), maxName)
		}
		t.name = parts[2]
		return t, nil
	}
	selector, err := parseSelector(parts[2])
	if err != nil {
		return nil, refused("the label selector %v", err)
	}
	t.selector = selector
	return t, nil
}

// CheckTarget implements dependent.Restarter.
func (*ConnectionKind) CheckTarget(c *rotator.ConnectionConfig, text string) error {
	s, err := decode(c)
	if err != nil {
		return err
	}
	_, err = admitted(s.Targets, text)
	return err
}

// admitted reads a target that a connection must admit.
func admitted(patterns []string, text string) (*target, error) {
	t, err := parseTarget(text)
	if err != nil {
		return nil, err
	}
	switch {
	case len(patterns) == 0:
		return nil, fault.New(fault.Invalid, "target %s: the connection admits none: whoever writes it must name what roles may restart, such as allowed_targets=%s", shown(text), t.example(text))
	case !slices.ContainsFunc(patterns, func(pattern string) bool { return t.matches(pattern, text) }):
		return nil, fault.New(fault.Invalid, "target %s: the connection does not admit it: its allowed_targets are %s", shown(text), listed(patterns))
	}
	return t, nil
}

// matches tells whether a pattern admits a target, as it was written. What begins a name admits
// names alone: a selector that begins alike, as api!=x does for api*, may mean all there are.
func (t *target) matches(pattern, text string) bool {
	wanted, parts := strings.SplitN(pattern, "/", 3), strings.SplitN(text, "/", 3)
	open := len(wanted) - 1
	parts = append(parts[:open:open], strings.Join(parts[open:], "/"))
	if t.selector != "" && open == 2 && wanted[2] != "*" && !selects(wanted[2]) {
		return false
	}
	for i, part := range wanted {
		if !glob.Glob(part, parts[i]) {
			return false
		}
	}
	return true
}

// selects tells a label selector from a name.
func selects(text string) bool { return strings.ContainsAny(text, "=!(), ") }

// example is a pattern that admits a target, as it can be written on a command line: there a comma
// would begin another entry.
func (t *target) example(text string) string {
	pattern, _, cut := strings.Cut(text, ",")
	if cut {
		pattern += "*"
	}
	if len(pattern) > maxShown || !t.matches(pattern, text) {
		parts := strings.SplitN(text, "/", 3)
		pattern = parts[0] + "/" + parts[1] + "/*"
	}
	if strings.ContainsAny(pattern, " ()!") {
		return "'" + pattern + "'"
	}
	return pattern
}

// maxAllowed bounds allowed_targets: each is looked at by a check.
const maxAllowed = 100

// checkAllowed refuses patterns that admit nothing.
func checkAllowed(s *settings) error {
	if len(s.Targets) > maxAllowed {
		return fault.Field("allowed_targets", "has %d entries; at most %d are allowed: use * as a wildcard", len(s.Targets), maxAllowed)
	}
	for _, pattern := range s.Targets {
		if why := admitsNothing(pattern); why != "" {
			return fault.Field("allowed_targets", "%s admits nothing: %s", shown(pattern), why)
		}
	}
	return nil
}

var notPattern = regexp.MustCompile(`[^a-z0-9*-]`)

// admitsNothing says why no target can match a pattern, as far as that is easily seen, and ""
// where one can.
func admitsNothing(pattern string) string {
	parts := strings.SplitN(pattern, "/", 3)
	switch {
	case pattern == "" || len(pattern) > maxTarget || len(parts) < 3 && !strings.HasSuffix(pattern, "*") || slices.Contains(parts, ""):
		return "targets are " + targetForm + ", in which * stands for any text; where a selector has commas, repeat the field for each entry, or give a JSON array"
	case notPattern.MatchString(parts[0]):
		return "a namespace is of lower-case letters, digits and hyphens"
	case len(parts) < 3 || strings.Contains(parts[0]+parts[1], "*"):
		return ""
	case !slices.Contains(append([]string{all}, kinds...), parts[1]):
		return "its kind must be deployment, statefulset, daemonset or all; the name of the connection is not part of it"
	}
	return ""
}

// maxListed bounds what a sentence lists.
const maxListed = 5

func listed(texts []string) string {
	out := make([]string, 0, maxListed)
	for _, text := range texts[:min(len(texts), maxListed)] {
		out = append(out, shown(text))
	}
	if n := len(texts) - maxListed; n > 0 {
		return strings.Join(out, ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(out, ", ")
}

// maxShown bounds what a sentence repeats of what was written.
const maxShown = 120

// shown quotes a text for a sentence: on one line, printable, bounded.
func shown(text string) string {
	if len(text) > maxShown {
		return fmt.Sprintf("%+q...", text[:maxShown])
	}
	return fmt.Sprintf("%+q", text)
}

var (
	label     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	uid       = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)
)

func isLabel(text string) bool     { return len(text) <= maxLabel && label.MatchString(text) }
func isSubdomain(text string) bool { return len(text) <= maxName && subdomain.MatchString(text) }

// checkWorkload refuses what no journal of this package can hold: its parts become those of a
// path.
func checkWorkload(w dependent.Workload) error {
	if !slices.Contains(kinds, w.Kind) || !isLabel(w.Namespace) || !isSubdomain(w.Name) || !uid.MatchString(w.UID) {
		return fault.New(fault.Internal, "the journal names a workload that cannot be one of Kubernetes: %s", shown(w.String()))
	}
	return nil
}
