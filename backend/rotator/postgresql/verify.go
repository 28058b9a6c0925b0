package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Verify implements rotator.Rotator: it logs in as the user, over the path that
// readers use, and does what the role's verification_statements say. Only what the
// version itself is answered for is AuthFailed (the server refused its credential)
// or Target (it is not who it should be); a failing statement is a Conflict, and
// whatever else is in the way Unreachable.
func (*Rotator) Verify(ctx context.Context, t *rotator.Target) error {
	connection, err := open(t)
	if err != nil {
		return err
	}
	options, err := decodeRole(t.Role)
	if err != nil {
		return err
	}
	o, err := objectOf(&t.Version)
	if err != nil {
		return err
	}
	password, err := passwordOf(t.Material)
	if err != nil {
		return err
	}
	s, err := connection.loginAsReader(ctx, t.Version.Identifier, password)
	if err != nil {
		return fault.In("log in as "+quoted(t.Version.Identifier), err)
	}
	defer s.Close()
	if err := checkIdentity(ctx, s, t.Version.Identifier, o.Group); err != nil {
		return err
	}
	if err := connection.runStatements(ctx, s, options.VerificationStatements); err != nil {
		return err
	}
	if err := connection.awaitReplicas(ctx, t, t.Version.Identifier, password); err != nil {
		return err
	}
	return checkRights(ctx, t, o, options, false)
}

// checkIdentity finds out who the session is. A server that does not let a user
// act as its group only warns at login.
func checkIdentity(ctx context.Context, s *postgres.Session, user, group string) error {
	var current, session string
	if _, err := s.Row(ctx, "SELECT current_user::text, session_user::text", nil, &current, &session); err != nil {
		return fault.In("ask who the user is", postgres.NotTheCredential(err))
	}
	if session != user {
		return fault.New(fault.Target, "logged in as %s, but the session belongs to %s", quoted(user), quoted(session))
	}
	if group != "" && current != group {
		return fault.New(fault.Target, "the user %s acts as %s and not as its group %s", quoted(user), quoted(current), quoted(group))
	}
	return nil
}

// runStatements runs them in one transaction that is rolled back: a proof leaves
// nothing. What fails in them says that the role asks for something it does not get,
// and not that the version is not what it should be.
func (c *Connection) runStatements(ctx context.Context, s *postgres.Session, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if !c.options.AllowCustomStatements {
		return fault.Field("verification_statements", "need allow_custom_statements=true on the connection")
	}
	err := s.RolledBack(ctx, c.options.StatementTimeout.Std(), func(s *postgres.Session) error {
		for i, statement := range statements {
			if err := s.ExecForeign(ctx, statement); err != nil {
				return statementError(i+1, err)
			}
		}
		return nil
	})
	return postgres.NotTheCredential(err)
}

func statementError(number int, err error) error {
	kind := fault.Conflict
	if fault.Is(err, fault.Unreachable) || postgres.Environmental(err) {
		kind = fault.Unreachable
	}
	return &fault.Error{Kind: kind, Message: fmt.Sprintf("verification statement %d: %v", number, err), Err: err}
}
