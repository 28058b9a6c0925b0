package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Probe implements rotator.Prober. The server's own refusal of the old login and
// its acceptance of the current one, over the same path a moment later, prove the
// old one dead; no answer, or a refusal for another reason, proves nothing and is
// an error. A server answers 28P01 for a dropped user too. Standby servers are not
// asked: the proof says that it covers the primary only.
func (*Rotator) Probe(ctx context.Context, t *rotator.Target) (rotator.Proof, error) {
	connection, err := open(t)
	if err != nil {
		return rotator.Proof{}, err
	}
	password, err := passwordOf(t.Material)
	if err != nil {
		return rotator.Proof{}, in("version "+fmt.Sprint(t.Version.Number)+" cannot be probed", err)
	}
	s, err := connection.DB.Login(ctx, t.Version.Identifier, password)
	if err == nil {
		s.Close()
		return rotator.Proof{Result: bounded(fmt.Sprintf("the login of %s is still accepted", quoted(t.Version.Identifier)))}, nil
	}
	code := postgres.Code(err)
	if !fault.Is(err, fault.AuthFailed) {
		return rotator.Proof{}, in("log in as the old version", err)
	}
	witness, err := accepted(ctx, connection, t)
	if err != nil {
		return rotator.Proof{}, notAProof(err)
	}
	return rotator.Proof{Dead: true, Result: bounded(fmt.Sprintf("PostgreSQL refused %s (SQLSTATE %s) and accepted %s a moment later, primary only",
		quoted(t.Version.Identifier), code, quoted(witness)))}, nil
}

// accepted logs in as the witness: the current version, or, where none can be
// (a deleted role, a current version that an emergency ended first), the
// administrator over the same path.
func accepted(ctx context.Context, c *Connection, t *rotator.Target) (witness string, err error) {
	if t.Current == nil {
		return c.DB.Username(), c.DB.Ping(ctx)
	}
	password, err := passwordOf(t.Current.Material)
	if err != nil {
		return "", err
	}
	s, err := c.DB.Login(ctx, t.Current.Version.Identifier, password)
	if err != nil {
		return "", err
	}
	s.Close()
	return t.Current.Version.Identifier, nil
}

// notAProof keeps the current version's own authentication failure from being
// taken for that of the version in question.
func notAProof(err error) error {
	err = in("the old version was refused, but so was the witness, which proves nothing", err)
	if fault.Is(err, fault.AuthFailed) {
		return fault.New(fault.Target, "%w", err)
	}
	return err
}

const inUseQuery = `
SELECT coalesce(application_name, ''), coalesce(host(client_addr), ''), count(*)
FROM pg_stat_activity WHERE usename = $1 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 100`

// InUse implements rotator.InUser. Client addresses are empty without
// pg_read_all_stats; sessions on standby servers are not seen.
func (*Rotator) InUse(ctx context.Context, t *rotator.Target) ([]rotator.Use, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	var uses []rotator.Use
	err = connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		return s.Each(ctx, inUseQuery, []any{t.Version.Identifier}, func(scan func(...any) error) error {
			var u rotator.Use
			if err := scan(&u.ApplicationName, &u.ClientAddr, &u.Count); err != nil {
				return err
			}
			uses = append(uses, u)
			return nil
		})
	})
	return uses, in("look for sessions", err)
}
