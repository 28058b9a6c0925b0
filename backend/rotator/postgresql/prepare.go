package postgresql

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Prepare implements rotator.Rotator: the user with its group, settings and mark
// is made in one transaction, so it is there as a whole or not at all. A user that
// is there already and ours is brought to the same state, which also undoes a
// Disable. Custom statements take the place of all but the mark. Standing users
// get the version's password, imported ones nothing but the mark.
func (*Rotator) Prepare(ctx context.Context, t *rotator.Target) error {
	p, err := preparation(t)
	if err != nil {
		return err
	}
	if len(p.object.Imported) > 0 && t.Version.State == rotation.Pending {
		return p.takeOver(ctx)
	}
	return p.connection.DB.WithLock(ctx, p.run)
}

type prepareRun struct {
	target     *rotator.Target
	connection *Connection
	options    *roleOptions
	object     object
	verifier   secret.String
}

func preparation(t *rotator.Target) (*prepareRun, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	options, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	o, err := objectOf(&t.Version)
	if err != nil {
		return nil, err
	}
	password, err := passwordOf(t.Material)
	if err != nil {
		return nil, err
	}
	verifier, err := postgres.Verifier(password)
	if err != nil {
		return nil, err
	}
	return &prepareRun{target: t, connection: connection, options: options, object: o, verifier: verifier}, nil
}

func (p *prepareRun) run(ctx context.Context, s *postgres.Session) error {
	name := p.target.Version.Identifier
	if p.object.Group != "" {
		if err := checkGroup(ctx, s, p.object.Group, p.connection.options); err != nil {
			return err
		}
		if err := p.adoptOwnership(ctx, s); err != nil {
			return err
		}
	}
	if !p.object.standing() && (p.object.Group == "" || len(p.options.CreationStatements) > 0) {
		return p.prepareCustom(ctx)
	}
	if err := p.options.checkSettingsAt(ctx, s, p.connection.options); err != nil {
		return err
	}
	if p.object.standing() {
		return p.prepareStanding(ctx, s)
	}
	u, err := findUser(ctx, s, p.target)
	if err != nil {
		return err
	}
	if u.exists && u.foreign != "" {
		return u.refuse(name)
	}
	return s.Pipelined(ctx, func(s *postgres.Session) error {
		if !u.exists {
			s.Step("create the user")
			if err := s.Exec(ctx, "CREATE ROLE "+postgres.Ident(name)); err != nil {
				return err
			}
		}
		return p.bring(ctx, s)
	})
}

// bring notes what makes of any user the one that the role describes.
func (p *prepareRun) bring(ctx context.Context, s *postgres.Session) error {
	name := p.target.Version.Identifier
	for _, step := range []struct {
		what string
		do   func(context.Context, *postgres.Session) error
	}{
		{"set the password", p.setLogin},
		{"grant the group", func(ctx context.Context, s *postgres.Session) error { return grantGroup(ctx, s, p.object.Group, name) }},
		{"make the user act as the group", p.setRole},
		{"settings", p.setSettings},
	} {
		s.Step(step.what)
		if err := fault.In(step.what, step.do(ctx, s)); err != nil {
			return err
		}
	}
	s.Step("mark the user")
	return writeMark(ctx, s, p.target, p.target.Mark, name)
}

// setLogin leaves VALID UNTIL alone: who can end a version is the engine, not a
// clock that may be wrong when the engine is down. A standing user keeps the limit
// it has unless the role has one.
func (p *prepareRun) setLogin(ctx context.Context, s *postgres.Session) error {
	limit := ""
	if !p.object.standing() || p.options.ConnectionLimit != noConnectionLimit {
		limit = " CONNECTION LIMIT " + strconv.FormatInt(p.options.ConnectionLimit, 10)
	}
	return p.setPassword(ctx, s, limit)
}

// setPassword gives the user its login, with further attributes.
func (p *prepareRun) setPassword(ctx context.Context, s *postgres.Session, attributes string) error {
	verifier, err := s.Literal(p.verifier.Reveal())
	if err != nil {
		return err
	}
	return s.ExecSecret(ctx, "ALTER ROLE "+postgres.Ident(p.target.Version.Identifier)+" LOGIN"+attributes+" PASSWORD "+verifier, p.verifier)
}

// grantGroup gives a user the group's rights. From PostgreSQL 16 on, SET is what
// lets it act as the group; before, membership alone does.
func grantGroup(ctx context.Context, s *postgres.Session, group, user string) error {
	statement := "GRANT " + postgres.Ident(group) + " TO " + postgres.Ident(user)
	if s.Major() >= 16 {
		statement += " WITH INHERIT TRUE, SET TRUE"
	}
	return s.Exec(ctx, statement)
}

func (p *prepareRun) setRole(ctx context.Context, s *postgres.Session) error {
	return setSetting(ctx, s, p.target.Version.Identifier, "role", []string{p.object.Group})
}

func (p *prepareRun) setSettings(ctx context.Context, s *postgres.Session) error {
	for _, name := range slices.Sorted(maps.Keys(p.options.Settings)) {
		values := settingValues(name, p.options.Settings[name])
		s.Step("settings: " + name)
		if err := fault.In(name, setSetting(ctx, s, p.target.Version.Identifier, name, values)); err != nil {
			return err
		}
	}
	return nil
}

func setSetting(ctx context.Context, s *postgres.Session, user, name string, values []string) error {
	literals := make([]string, len(values))
	for i, value := range values {
		var err error
		if literals[i], err = s.Literal(value); err != nil {
			return err
		}
	}
	parts := strings.Split(name, ".")
	for i := range parts {
		parts[i] = postgres.Ident(parts[i])
	}
	return s.Exec(ctx, fmt.Sprintf("ALTER ROLE %s SET %s TO %s", postgres.Ident(user), strings.Join(parts, "."), strings.Join(literals, ", ")))
}

// listSettings are those that PostgreSQL stores as a list of quoted names
// (GUC_LIST_QUOTE; pg_dump keeps the same list): a single literal would become one
// name with commas in it.
var listSettings = []string{"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces"}

func settingValues(name, value string) []string {
	if !slices.Contains(listSettings, strings.ToLower(name)) {
		return []string{value}
	}
	var values []string
	for part := range strings.SplitSeq(value, ",") {
		part = strings.TrimSpace(part)
		if len(part) >= 2 && part[0] == '"' && part[len(part)-1] == '"' {
			part = strings.ReplaceAll(part[1:len(part)-1], `""`, `"`)
		}
		values = append(values, part)
	}
	return values
}
