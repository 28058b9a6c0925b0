package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// The fields that each copy has: by them we know our own.
const (
	fieldRotation = "rotation_id"
	fieldVersion  = "version"
)

// Bounds of a copy.
const (
	maxMirrorFields = 64
	maxMirrorField  = 4 << 10
)

// checkMirror refuses a mirror that can be seen to be wrong without asking the place.
func (e *Engine) checkMirror(ctx context.Context, kind rotator.Rotator, before, role *store.Role) error {
	p := role.Policy
	if p.Mirror == "" {
		if len(p.MirrorFields) > 0 || p.MirrorForce {
			return fault.Field("mirror", "is required beside mirror_fields and mirror_force: where the copy goes, such as %s", exampleMirror)
		}
		return nil
	}
	connection, path, err := splitPlace("mirror", p.Mirror, exampleMirror)
	if err != nil {
		return err
	}
	through, err := e.mirrorer(ctx, connection, role.Name)
	if err != nil {
		return err
	}
	if err := through.kind.CheckPath(through.config(), path); err != nil {
		return fault.Field("mirror", "%s: %s", p.Mirror, err)
	}
	if err := checkMirrorFields(kind.Kind(), p.MirrorFields); err != nil {
		return err
	}
	if before != nil && before.Policy.Mirror == p.Mirror {
		return nil
	}
	return e.mirroredElsewhere(ctx, role)
}

// mirroredElsewhere refuses a place that another role writes to.
func (e *Engine) mirroredElsewhere(ctx context.Context, role *store.Role) error {
	name, err := e.otherRole(ctx, role, func(other *store.Role) bool { return other.Policy.Mirror == role.Policy.Mirror })
	if err != nil || name == "" {
		return err
	}
	return fault.Field("mirror", "%s is where the role %q is copied to: each role needs a path of its own", role.Policy.Mirror, name)
}

func checkMirrorFields(k rotator.Kind, fields map[string]string) error {
	if len(fields) > maxMirrorFields {
		return fault.Field("mirror_fields", "has %d entries: at most %d are admitted", len(fields), maxMirrorFields)
	}
	sample := map[string]string{fieldVersion: "1"}
	for _, name := range k.Copied {
		sample[name] = "x"
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if name == fieldRotation || name == fieldVersion {
			return fault.Field("mirror_fields", "%s is always in the copy, and cannot be given", name)
		}
		if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fault.Field("mirror_fields", "%q is not a name: 1 to 128 printable characters of ASCII without spaces", name)
		}
		if len(fields[name]) > maxMirrorField {
			return fault.Field("mirror_fields", "%s: has %d bytes: at most %d are admitted", name, len(fields[name]), maxMirrorField)
		}
		if _, err := fillIn(fields[name], sample); err != nil {
			return fault.Field("mirror_fields", "%s: %s", name, err)
		}
	}
	return nil
}

// fillIn makes what a field of a copy holds: the value of a field of creds, or a template
// over those.
func fillIn(text string, values map[string]string) (string, error) {
	known := "one of " + strings.Join(slices.Sorted(maps.Keys(values)), ", ")
	if !strings.Contains(text, "{{") {
		value, ok := values[text]
		if !ok {
			return "", fault.New(fault.Invalid, "%q is not a field: use %s, or a template such as {{.%s}}", text, known, fieldVersion)
		}
		return value, nil
	}
	parsed, err := parseField(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := parsed.Execute(&out, values); err != nil { // which may quote a value
		return "", fault.New(fault.Invalid, "the template cannot be filled in: it may use %s", known)
	}
	return out.String(), nil
}

// parseField parses the template of a field: text, fields, and fields through urlquery. All
// else of the language is refused, since a template of a line may take an hour, or all memory.
func parseField(text string) (*template.Template, error) {
	const simple = "may hold text and fields, as {{.username}} or {{urlquery .password}}, and nothing else"
	parsed, err := template.New("field").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fault.New(fault.Invalid, "is not a template: it %s", simple)
	}
	if len(parsed.Templates()) > 1 || parsed.Tree == nil {
		return nil, fault.New(fault.Invalid, "the template %s", simple)
	}
	for _, node := range parsed.Root.Nodes {
		if !simpleNode(node) {
			return nil, fault.New(fault.Invalid, "the template %s", simple)
		}
	}
	return parsed, nil
}

func simpleNode(node parse.Node) bool {
	switch n := node.(type) {
	case *parse.TextNode, *parse.CommentNode:
		return true
	case *parse.ActionNode:
		if len(n.Pipe.Decl) > 0 || len(n.Pipe.Cmds) > 2 {
			return false
		}
		for i, cmd := range n.Pipe.Cmds {
			if !simpleCommand(cmd.Args, i > 0) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// simpleCommand tells whether a command is a field, urlquery of a field, or urlquery of what
// comes through a pipe.
func simpleCommand(args []parse.Node, piped bool) bool {
	named := func(node parse.Node) bool {
		id, ok := node.(*parse.IdentifierNode)
		return ok && id.Ident == "urlquery"
	}
	field := func(node parse.Node) bool { f, ok := node.(*parse.FieldNode); return ok && len(f.Ident) == 1 }
	switch {
	case piped:
		return len(args) == 1 && named(args[0])
	case len(args) == 1:
		return field(args[0])
	default:
		return len(args) == 2 && named(args[0]) && field(args[1])
	}
}

// copyOf makes what a copy of a version is to hold.
func (e *Engine) copyOf(ctx context.Context, s *subject, v *rotation.Version, rotationID string) (secret.Map, error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return nil, err
	}
	conn, err := e.store.Connection(ctx, s.role.Connection)
	if err != nil {
		return nil, err
	}
	rendered, err := e.renderVersion(s, kind, roleView(s.role, conn), v, e.readingOnce(ctx, s.name))
	if err != nil {
		return nil, err
	}
	values := map[string]string{fieldVersion: strconv.Itoa(v.Number)}
	for _, name := range kind.Kind().Copied {
		if value, ok := rendered.data[name]; ok {
			if values[name], err = asText(value); err != nil {
				return nil, fmt.Errorf("copy the field %s: %w", name, err)
			}
		}
	}
	out := values
	if fields := s.role.Policy.MirrorFields; len(fields) > 0 {
		out = map[string]string{fieldVersion: values[fieldVersion]}
		for name, text := range fields {
			if out[name], err = fillIn(text, values); err != nil {
				return nil, fmt.Errorf("mirror_fields: %s: %w", name, err)
			}
		}
	}
	out[fieldRotation] = rotationID
	return secret.NewMap(out), nil
}

func asText(value any) (string, error) {
	if text, ok := value.(string); ok {
		return text, nil
	}
	text, err := json.Marshal(value)
	return string(text), err
}

// place is where a role is copied to, opened.
type place struct {
	through dependent.Mirrorer
	conn    rotator.Connection
	path    string
}

func (e *Engine) place(ctx context.Context, role *store.Role) (p place, err error) {
	connection, path, err := splitPlace("mirror", role.Policy.Mirror, exampleMirror)
	if err != nil {
		return p, err
	}
	through, err := e.mirrorer(ctx, connection, role.Name)
	if err != nil {
		return p, err
	}
	if err := through.kind.CheckPath(through.config(), path); err != nil {
		return p, err
	}
	p.through, p.path = through.kind, path
	p.conn, err = e.connections.open(ctx, through.doc)
	return p, err
}

// foreign says what somebody else did to the copy, "" for nothing.
func foreign(m *rotation.Mirror, path string, found dependent.Copy) string {
	if m == nil || m.Path != path {
		m = &rotation.Mirror{Path: path}
	}
	bears := found.Fields[fieldRotation].Reveal()
	switch {
	case len(m.Meant) > 0 && found.Version == m.Instead+1 && !found.Deleted && slices.Contains(m.Meant, bears):
		return "" // ours, and the answer was lost
	case m.Copy > 0 && found.Version == m.Copy && !found.Deleted && bears == m.RotationID:
		return ""
	case m.Copy == 0 && (found.Version == 0 || found.Deleted):
		return ""
	case m.Copy == 0:
		return fmt.Sprintf("version %d there was written by somebody else", found.Version)
	case found.Deleted:
		return fmt.Sprintf("version %d there was removed by somebody else", found.Version)
	case found.Version <= m.Copy:
		return fmt.Sprintf("version %d there is not the one that we wrote, %d: somebody else removed or restored it", found.Version, m.Copy)
	default:
		return fmt.Sprintf("version %d there was written by somebody else after ours, %d", found.Version, m.Copy)
	}
}

// mirrorReady tells why the next version could not be copied.
func (e *Engine) mirrorReady(ctx context.Context, s *subject) error {
	p, err := e.place(ctx, s.role)
	if err != nil {
		return err
	}
	if err := p.through.Ready(ctx, p.conn, p.path); err != nil {
		return err
	}
	found, err := p.through.Read(ctx, p.conn, p.path)
	if err != nil {
		return err
	}
	if what := foreign(s.state.Mirror, s.role.Policy.Mirror, found); what != "" && !s.role.Policy.MirrorForce {
		return notOverwritten(what)
	}
	return nil
}

func notOverwritten(what string) error {
	return fault.New(fault.Target, "%s, and is not overwritten unless the role has mirror_force=true", what)
}

// fieldsPrint tells whether a copy holds what the role wants it to.
func fieldsPrint(p store.Policy) (string, error) {
	raw, err := json.Marshal(p.MirrorFields) // with its keys in order
	if err != nil {
		return "", fmt.Errorf("fingerprint mirror_fields: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8]), nil
}

// mirrorAct is what is to be done about the copy next.
type mirrorAct struct {
	place   place
	want    secret.Map
	found   dependent.Copy
	foreign string
	// written tells that the copy is as it is to be.
	written bool
}

// lookAtMirror compares the copy with what it is to hold.
func (e *Engine) lookAtMirror(ctx context.Context, s *subject, v *rotation.Version, rotationID string) (a mirrorAct, err error) {
	if a.place, err = e.place(ctx, s.role); err != nil {
		return a, err
	}
	if a.want, err = e.copyOf(ctx, s, v, rotationID); err != nil {
		return a, err
	}
	if a.found, err = a.place.through.Read(ctx, a.place.conn, a.place.path); err != nil {
		return a, err
	}
	a.foreign = foreign(s.state.Mirror, s.role.Policy.Mirror, a.found)
	a.written = a.found.Version > 0 && !a.found.Deleted && a.found.Fields.Equal(a.want)
	return a, nil
}

// meaning journals that a copy is about to be written: what bears its id is ours.
func (s *subject) meaning(a mirrorAct, rotationID string) {
	m := s.mirrorHere()
	if a.found.Version == m.Instead+1 && slices.Contains(m.Meant, a.found.Fields[fieldRotation].Reveal()) {
		m.Copy, m.RotationID = a.found.Version, a.found.Fields[fieldRotation].Reveal() // whose answer was lost
	}
	const remembered = 4 // a leader that was deposed may still write
	m.Instead, m.Meant = a.found.Version, append([]string{rotationID}, m.Meant[:min(len(m.Meant), remembered-1)]...)
}

// mirrorHere is the record of the copy at the place that the role names now.
func (s *subject) mirrorHere() *rotation.Mirror {
	if s.state.Mirror == nil || s.state.Mirror.Path != s.role.Policy.Mirror {
		s.state.Mirror = &rotation.Mirror{Path: s.role.Policy.Mirror}
	}
	return s.state.Mirror
}

// mirrored records a copy that is as it is to be.
func (s *subject) mirrored(copied, version int, fields, rotationID string, now time.Time) {
	m := s.mirrorHere()
	changed := m.Copy != copied || m.Version != version
	*m = rotation.Mirror{Path: m.Path, Copy: copied, Version: version, Fields: fields, RotationID: rotationID, WrittenTime: now}
	if changed {
		s.state.Emit(rotation.Event{
			ID: fmt.Sprintf("%s/mirror.written/%d", rotationID, copied), Type: "mirror.written", Time: now,
			Data: map[string]string{"mirror": m.Path, "mirror_version": strconv.Itoa(copied), "version": strconv.Itoa(version), "rotation_id": rotationID},
		})
	}
}

// mirrorForeign records, and tells once, what somebody else did to the copy.
func (s *subject) mirrorForeign(a mirrorAct, now time.Time) {
	m := s.mirrorHere()
	if m.Foreign == a.foreign && m.ForeignCopy == a.found.Version {
		return
	}
	m.Foreign, m.ForeignCopy = a.foreign, a.found.Version
	then := "it is left as it is"
	if s.role.Policy.MirrorForce {
		then = "it is overwritten"
	}
	s.state.Emit(rotation.Event{
		ID: fmt.Sprintf("mirror.changed/%s/%d/%s", m.Path, a.found.Version, m.RotationID), Type: "mirror.changed", Time: now,
		Data: map[string]string{"mirror": m.Path, "what": a.foreign, "then": then},
	})
}
