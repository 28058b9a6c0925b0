package postgresql

import (
	"cmp"
	"context"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// A role may begin with users that people made. Who writes it has to know their
// password, which a login proves; nothing of them changes but their comment, which
// becomes our mark and is put back should the role not come about.

// importedUser is one user that was taken over.
type importedUser struct {
	Name string `json:"name"`
	// Comment is what stood in the place of our mark.
	Comment string `json:"comment,omitempty"`
}

// Imports implements rotator.Importer.
func (*Rotator) Imports(r *rotator.Role) bool { return !r.Secrets[passwordKey].Empty() }

// planImport makes the first version of the users that exist.
func planImport(ctx context.Context, t *rotator.Target, o *roleOptions, password secret.String) (*rotator.Candidate, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	first := o.Username
	names := []string{first}
	if o.Strategy == alternate {
		names = o.Usernames
	}
	var found []importedUser
	err = connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		found = nil
		for _, name := range names {
			u, err := readUser(ctx, s, t.MarkKey, name)
			if err != nil {
				return err
			}
			if !u.exists {
				continue
			}
			if err := importable(u, name, t.Role.Name); err != nil {
				return err
			}
			found = append(found, importedUser{Name: name, Comment: u.comment})
			if first == "" {
				first = name
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 || o.Username != "" && o.Username != found[0].Name && (len(found) < 2 || o.Username != found[1].Name) {
		return nil, fault.New(fault.Conflict, "there is no user %s to take over", quoted(cmp.Or(o.Username, strings.Join(names, ", "))))
	}
	return candidate(first, password, object{Strategy: o.objectStrategy(), Imported: found})
}

// importable refuses users that are somebody's already. A mark of an earlier role
// of the same name is one that we left behind.
func importable(u user, name, role string) error {
	switch {
	case u.foreign == unmarked && len(u.comment) > maxComment:
		return fault.New(fault.Conflict, "the user %s has a comment of more than %d bytes, which is to be kept: shorten it first", quoted(name), maxComment)
	case u.expires:
		return fault.New(fault.Conflict, "the user %s has a VALID UNTIL, after which no version of it would work: ALTER ROLE %s VALID UNTIL 'infinity' first", quoted(name), quoted(name))
	case u.foreign == unmarked:
		return nil
	case u.foreign != "":
		return u.refuse(name)
	case u.mark.Role != role:
		return fault.New(fault.Conflict, "the user %s belongs to the role %q already: it was not touched", quoted(name), u.mark.Role)
	}
	return nil
}

// takeOver proves the password and marks the users.
func (p *prepareRun) takeOver(ctx context.Context) error {
	password, err := passwordOf(p.target.Material)
	if err != nil {
		return err
	}
	for _, one := range p.object.Imported {
		s, err := p.connection.DB.Login(ctx, one.Name, password)
		if fault.Is(err, fault.AuthFailed) {
			return fault.Field("password", "is not that of the user %s, or it may not log in", quoted(one.Name))
		}
		if err != nil {
			return fault.In("log in as "+quoted(one.Name), err)
		}
		s.Close()
	}
	return p.connection.DB.WithLock(ctx, func(ctx context.Context, s *postgres.Session) error {
		for _, one := range p.object.Imported {
			if err := p.takeOverOne(ctx, s, one); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *prepareRun) takeOverOne(ctx context.Context, s *postgres.Session, one importedUser) error {
	u, err := readUser(ctx, s, p.target.MarkKey, one.Name)
	switch {
	case err != nil:
		return err
	case u.exists && u.mark.RotationID == p.target.Version.RotationID:
		return nil // by an earlier call
	case !u.exists || u.comment != one.Comment:
		return fault.New(fault.Conflict, "the user %s was changed by somebody else meanwhile: look at it and write the role again", quoted(one.Name))
	}
	if err := importable(u, one.Name, p.target.Role.Name); err != nil {
		return err
	}
	if err := powerless(ctx, s, one.Name); err != nil {
		return err
	}
	return writeMark(ctx, s, p.target, p.importMark(), one.Name)
}

func (p *prepareRun) importMark() mark.Mark {
	if p.object.standing() {
		return standingMark(p.target, p.target.Version.Number, p.target.Version.RotationID)
	}
	return p.target.Mark
}

// powerless refuses users that administer the server: whoever writes the role could
// bring them back after their owner ended them.
func powerless(ctx context.Context, s *postgres.Session, name string) error {
	_, why, err := powerOf(ctx, s, name)
	if err != nil {
		return fault.In("look at the user's rights", err)
	}
	if why != "" {
		return fault.New(fault.Conflict, "the user %s must not be taken over: it %s", quoted(name), why)
	}
	return nil
}

// putBack undoes takeOver: the comments are as they were, and nothing else ever
// changed.
func (r *retirement) putBack(ctx context.Context) error {
	return r.connection.DB.WithLock(ctx, func(ctx context.Context, s *postgres.Session) error {
		for _, one := range r.object.Imported {
			u, err := readUser(ctx, s, r.target.MarkKey, one.Name)
			if err != nil {
				return err
			}
			if !u.exists || u.mark.RotationID != r.target.Version.RotationID {
				continue
			}
			if err := fault.In("put the user's comment back", comment(ctx, s, one.Name, one.Comment)); err != nil {
				return err
			}
		}
		return nil
	})
}
