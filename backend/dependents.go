package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// In which order workloads are restarted.
const (
	orderSequential = "sequential"
	orderParallel   = "parallel"
)

// Bounds of rollout_timeout.
const (
	defaultRolloutTimeout = 10 * time.Minute
	minRolloutTimeout     = 10 * time.Second
	maxRolloutTimeout     = 24 * time.Hour
)

// maxDependents bounds each list of a role.
const maxDependents = 50

// rolloutOrder and rolloutTimeout are those of a role that was stored before there were any.
func rolloutOrder(p store.Policy) string {
	if p.RolloutOrder == "" {
		return orderSequential
	}
	return p.RolloutOrder
}

func rolloutTimeout(p store.Policy) time.Duration {
	if p.RolloutTimeout == 0 {
		return defaultRolloutTimeout
	}
	return p.RolloutTimeout.Std()
}

// splitPlace parts what a role writes as connection/rest.
func splitPlace(field, place, example string) (connection, rest string, err error) {
	connection, rest, found := strings.Cut(place, "/")
	if !found || connection == "" || rest == "" {
		return "", "", fault.Field(field, "%q must be a connection and what it leads to, such as %s", place, example)
	}
	return connection, rest, nil
}

// The forms of what leads to a dependent.
const (
	exampleTarget = "prod/default/deployment/api"
	exampleMirror = "self/secret/intelliflow/database"
)

// dependentConnections names the connections to a role's dependents.
func dependentConnections(p store.Policy) (names []string) {
	for _, target := range p.Rollout {
		names = append(names, beforeSlash(target))
	}
	names = append(names, p.Checks...)
	if p.Mirror != "" {
		names = append(names, beforeSlash(p.Mirror))
	}
	return names
}

func beforeSlash(place string) string {
	connection, _, _ := strings.Cut(place, "/")
	return connection
}

// means is a connection to a dependent, with what its type can do.
type means[C any] struct {
	doc  *store.Connection
	kind C
}

func (m means[C]) config() *rotator.ConnectionConfig { return configOf(m.doc, nil) }

// meansOf finds the connection that a field of a role names. able says what it must be good
// for.
func meansOf[C any](ctx context.Context, e *Engine, field, name, role, able string) (m means[C], err error) {
	doc, err := e.store.Connection(ctx, name)
	if err != nil {
		return m, err
	}
	if doc == nil {
		return m, fault.Field(field, "there is no connection %q: write connections/%s first", name, name)
	}
	if !allowsRole(doc, role) {
		return m, fault.Field(field, "connection %q does not allow the role %q: see its allowed_roles", name, role)
	}
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return m, err
	}
	can, ok := kind.(C)
	if !ok {
		return m, fault.Field(field, "connection %q is of type %s, which does not %s", name, doc.Type, able)
	}
	return means[C]{doc: doc, kind: can}, nil
}

// What a connection to a dependent must be good for.
const (
	ableRestart = "restart workloads: use one of type kubernetes"
	ableCheck   = "check anything: use one of type http-check"
	ableMirror  = "hold a copy: use one of type vault"
)

func (e *Engine) restarter(ctx context.Context, connection, role string) (means[dependent.Restarter], error) {
	return meansOf[dependent.Restarter](ctx, e, "rollout", connection, role, ableRestart)
}

func (e *Engine) checker(ctx context.Context, connection, role string) (means[dependent.Checker], error) {
	return meansOf[dependent.Checker](ctx, e, "checks", connection, role, ableCheck)
}

func (e *Engine) mirrorer(ctx context.Context, connection, role string) (means[dependent.Mirrorer], error) {
	return meansOf[dependent.Mirrorer](ctx, e, "mirror", connection, role, ableMirror)
}

// checkDependents refuses dependents that can be seen to be wrong without asking them.
func (e *Engine) checkDependents(ctx context.Context, kind rotator.Rotator, before, role *store.Role) error {
	p := role.Policy
	if err := e.checkRollout(ctx, role); err != nil {
		return err
	}
	if err := noneTwice("checks", p.Checks); err != nil {
		return err
	}
	for _, name := range p.Checks {
		if _, err := e.checker(ctx, name, role.Name); err != nil {
			return err
		}
	}
	if err := checkSessions(kind, p); err != nil {
		return err
	}
	return e.checkMirror(ctx, kind, before, role)
}

func (e *Engine) checkRollout(ctx context.Context, role *store.Role) error {
	if err := noneTwice("rollout", role.Policy.Rollout); err != nil {
		return err
	}
	for _, target := range role.Policy.Rollout {
		connection, rest, err := splitPlace("rollout", target, exampleTarget)
		if err != nil {
			return err
		}
		through, err := e.restarter(ctx, connection, role.Name)
		if err != nil {
			return err
		}
		if err := through.kind.CheckTarget(through.config(), rest); err != nil {
			return fault.Field("rollout", "%s: %s", target, err)
		}
	}
	return nil
}

func noneTwice(field string, list []string) error {
	if len(list) > maxDependents {
		return fault.Field(field, "has %d entries: at most %d are admitted", len(list), maxDependents)
	}
	for i, entry := range list {
		if slices.Contains(list[:i], entry) {
			return fault.Field(field, "names %s twice", entry)
		}
	}
	return nil
}

// checkSessions refuses application names that could never be seen.
func checkSessions(kind rotator.Rotator, p store.Policy) error {
	if len(p.ExpectSessions) == 0 {
		return nil
	}
	if _, tells := kind.(rotator.InUser); !tells {
		return fault.Field("expect_sessions", "is not possible for type %s: it cannot tell which applications use a version", kind.Kind().Name)
	}
	for _, name := range p.ExpectSessions {
		// PostgreSQL cuts application_name at 63 bytes and replaces what is not printable ASCII.
		if name == "" || len(name) > 63 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fault.Field("expect_sessions", "%q is not an application_name: 1 to 63 printable characters of ASCII", name)
		}
	}
	return noneTwice("expect_sessions", p.ExpectSessions)
}

// targetsAtOnce is how many targets are asked beside each other whether they could be restarted.
const targetsAtOnce = 5

// dependentLines asks what depends on a role whether a rotation could go well, for most in all.
// Only what cannot be restarted, or written to, is a reason against one.
func (e *Engine) dependentLines(ctx context.Context, s *subject, first bool, most time.Duration) (lines []rotator.Line, err error) {
	bounded, done := context.WithTimeout(ctx, most)
	defer done()
	if mirror := s.role.Policy.Mirror; mirror != "" {
		line, err := readyLine(ctx, "mirror "+mirror, "can be written", e.askOne(bounded, func(ctx context.Context) error { return e.mirrorReady(ctx, s) }))
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	if first { // nobody holds an earlier version
		return lines, nil
	}
	workloads := 0
	for _, answer := range e.askTargets(bounded, s.name, s.role.Policy.Rollout) {
		line, err := readyLine(ctx, "rollout "+answer.target, "can be restarted", answer.err)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
		workloads += answer.workloads
	}
	if workloads > maxWorkloads {
		lines = append(lines, rotator.Line{Check: "rollout", Result: rotator.Fail, Detail: tooMany(workloads).Error()})
	}
	return lines, nil
}

// answered is what became of the question whether a target could be restarted.
type answered struct {
	target    string
	workloads int
	err       error
}

// askTargets asks a few targets at a time, so that many, or distant ones, fit into one look.
func (e *Engine) askTargets(ctx context.Context, role string, targets []string) []answered {
	answers := make([]answered, len(targets))
	var all sync.WaitGroup
	for first := range targetsAtOnce {
		all.Go(func() {
			for i := first; i < len(targets); i += targetsAtOnce {
				answers[i] = e.askTarget(ctx, role, targets[i])
			}
		})
	}
	all.Wait()
	return answers
}

func (e *Engine) askTarget(ctx context.Context, role, target string) (a answered) {
	a.target = target
	a.err = e.askOne(ctx, func(ctx context.Context) (err error) {
		a.workloads, err = e.targetReady(ctx, role, target)
		return err
	})
	return a
}

// askOne gives a dependent a time of its own: one that hangs leaves some to the others. A fault of
// ours over it is no answer, and ends nothing else.
func (e *Engine) askOne(ctx context.Context, ask func(context.Context) error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			e.logger.Error("gave up on a dependent for now", "panic", panicked, "stack", string(debug.Stack()))
			err = fault.New(fault.Internal, "the plugin failed over it: its log has more")
		}
	}()
	bounded, done := context.WithTimeout(ctx, halfLook)
	defer done()
	if err := bounded.Err(); err != nil {
		return fault.New(fault.Unreachable, "there was no time left for it: %w", err)
	}
	return outOfTime(bounded, ask(bounded))
}

// writeTimeout bounds how long the write of a role waits for what it names.
const writeTimeout = 10 * time.Second

// tryDependents asks what a role names anew whether it could follow: what refuses is told to who
// wrote it, and not before the first rotation. It takes no lock, and what does not answer is a
// warning. So is what is not there yet for a role without a version, whose secret it may need to begin. The
// first rotation of that one asks the mirror.
func (e *Engine) tryDependents(ctx context.Context, before *subject, role *store.Role) (warnings []string, err error) {
	bounded, done := context.WithTimeout(ctx, writeTimeout)
	defer done()
	var known store.Policy
	fresh := before == nil || before.state.Current == 0
	if before != nil {
		known = before.role.Policy
	}
	told := func(field, place string, err error) error {
		switch {
		case err == nil:
			return nil
		case isStorage(err), ctx.Err() != nil:
			return err
		case answerless(err), fault.Is(err, fault.Internal), fresh && errors.Is(err, dependent.ErrGone):
			warnings = append(warnings, fmt.Sprintf("%s: %s: %s; preflight/%s asks again", field, place, failureOf(err, nil).Message, role.Name))
			return nil
		default:
			return fault.Field(field, "%s: %s", place, failureOf(err, nil).Message)
		}
	}
	if mirror := role.Policy.Mirror; before != nil && mirror != "" && mirror != known.Mirror {
		err := e.askOne(bounded, func(ctx context.Context) error {
			p, err := e.place(ctx, role)
			if err != nil {
				return err
			}
			return p.through.Ready(ctx, p.conn, p.path)
		})
		if err := told("mirror", mirror, err); err != nil {
			return nil, err
		}
	}
	targets := slices.DeleteFunc(slices.Clone(role.Policy.Rollout), func(t string) bool { return slices.Contains(known.Rollout, t) })
	for _, answer := range e.askTargets(bounded, role.Name, targets) {
		if err := told("rollout", answer.target, answer.err); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

func tooMany(workloads int) error {
	return fault.New(fault.Target, "the targets name %d workloads: at most %d are restarted in one rotation", workloads, maxWorkloads)
}

// readyLine makes a line of what a dependent answered. An error is one of ours.
func readyLine(ctx context.Context, check, well string, err error) (rotator.Line, error) {
	switch {
	case err == nil:
		return rotator.Line{Check: check, Result: rotator.Pass, Detail: well}, nil
	case isStorage(err), ctx.Err() != nil:
		return rotator.Line{}, err
	default:
		return rotator.Line{Check: check, Result: rotator.Fail, Detail: failureOf(err, nil).Message}, nil
	}
}

// targetReady counts the workloads of a target, all of which could be restarted now.
func (e *Engine) targetReady(ctx context.Context, role, target string) (workloads int, err error) {
	connection, rest, err := splitPlace("rollout", target, exampleTarget)
	if err != nil {
		return 0, err
	}
	through, conn, err := e.openTarget(ctx, role, connection, rest)
	if err != nil {
		return 0, err
	}
	if err := through.Ready(ctx, conn, rest); err != nil {
		return 0, err
	}
	found, err := through.Resolve(ctx, conn, rest)
	return len(found), err
}

// openTarget opens the connection to a target, as long as it admits that.
func (e *Engine) openTarget(ctx context.Context, role, connection, target string) (dependent.Restarter, rotator.Connection, error) {
	through, err := e.restarter(ctx, connection, role)
	if err != nil {
		return nil, nil, err
	}
	if err := through.kind.CheckTarget(through.config(), target); err != nil {
		return nil, nil, err
	}
	conn, err := e.connections.open(ctx, through.doc)
	return through.kind, conn, err
}

// checkLines asks the endpoints that are to pass after a rotation whether they do now. They
// are no reason against one, which may be what mends them.
func (e *Engine) checkLines(ctx context.Context, s *subject) (lines []rotator.Line, err error) {
	bounded, done := context.WithTimeout(ctx, preflightTimeout)
	defer done()
	for _, name := range s.role.Policy.Checks {
		through, err := e.checker(bounded, name, s.name)
		detail := ""
		if err == nil {
			detail, err = e.tryCheck(bounded, through)
		}
		line, err := readyLine(ctx, "check "+name, detail, err)
		if err != nil {
			return nil, err
		}
		if line.Result == rotator.Fail {
			line.Result = rotator.Warn
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func (e *Engine) tryCheck(ctx context.Context, through means[dependent.Checker]) (detail string, err error) {
	conn, err := e.connections.open(ctx, through.doc)
	if err != nil {
		return "", err
	}
	bounded, done := context.WithTimeout(ctx, preflightTimeout)
	defer done()
	return through.kind.Try(bounded, conn)
}

// isFirst tells whether a rotation gives a role its first version: nothing depends on it yet.
func isFirst(t rotation.Trigger) bool { return t == rotation.Initial || t == rotation.Import }

// answerless tells a dependent that did not answer, which is asked again, from one that
// refused.
func answerless(err error) bool {
	return fault.Is(err, fault.Unreachable) || fault.Is(err, fault.Unconfirmed)
}

// tooLong is the failure of a step that did not come to its end in time.
func tooLong(most time.Duration, detail string) error {
	return fault.New(fault.Target, "not done after %s: %s", most, detail)
}

// joinDetails makes one sentence of several.
func joinDetails(details []string) string {
	const most = 5
	if more := len(details) - most; more > 0 {
		details = append(slices.Clone(details[:most]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(details, "; ")
}
