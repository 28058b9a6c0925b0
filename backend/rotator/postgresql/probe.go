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
// an error. A server answers 28P01 for a dropped user too. Each of replica_urls has to
// answer the same; the proof says how many standbys it covers.
// Of two users that were taken over together both have to refuse.
func (*Rotator) Probe(ctx context.Context, t *rotator.Target) (rotator.Proof, error) {
	o, err := objectOf(&t.Version)
	if err != nil {
		return rotator.Proof{}, err
	}
	proof, err := probeUser(ctx, t)
	for _, one := range o.Imported {
		if err != nil || !proof.Dead || one.Name == t.Version.Identifier {
			continue
		}
		other := *t
		other.Version.Identifier = one.Name
		also, probeErr := probeUser(ctx, &other)
		proof, err = rotator.Proof{Dead: also.Dead, Result: bounded(proof.Result + "; " + also.Result)}, probeErr
	}
	return proof, err
}

func probeUser(ctx context.Context, t *rotator.Target) (rotator.Proof, error) {
	connection, err := open(t)
	if err != nil {
		return rotator.Proof{}, err
	}
	password, err := passwordOf(t.Material)
	if err != nil {
		return rotator.Proof{}, fault.In("version "+fmt.Sprint(t.Version.Number)+" cannot be probed", err)
	}
	s, err := connection.DB.Login(ctx, t.Version.Identifier, password)
	if err == nil {
		s.Close()
		return rotator.Proof{Result: bounded(fmt.Sprintf("the login of %s is still accepted", quoted(t.Version.Identifier)))}, nil
	}
	code := postgres.Code(err)
	if !fault.Is(err, fault.AuthFailed) {
		return rotator.Proof{}, fault.In("log in as the old version", err)
	}
	witness, err := accepted(ctx, connection.DB, t)
	if err != nil {
		return rotator.Proof{}, notAProof(err)
	}
	covers, alive, err := connection.probeReplicas(ctx, t, password)
	if err != nil || alive != "" {
		return rotator.Proof{Result: bounded(alive)}, err
	}
	return rotator.Proof{Dead: true, Result: bounded(fmt.Sprintf("PostgreSQL refused %s (SQLSTATE %s) and accepted %s a moment later, %s",
		quoted(t.Version.Identifier), code, quoted(witness), covers))}, nil
}

// accepted logs in as the witness: the current version, or, where none can be
// (a deleted role, a current version that an emergency ended first), the
// administrator over the same path.
func accepted(ctx context.Context, db *postgres.DB, t *rotator.Target) (witness string, err error) {
	if t.Current == nil {
		return db.Username(), db.Ping(ctx)
	}
	password, err := passwordOf(t.Current.Material)
	if err != nil {
		return "", err
	}
	s, err := db.Login(ctx, t.Current.Version.Identifier, password)
	if err != nil {
		return "", err
	}
	s.Close()
	return t.Current.Version.Identifier, nil
}

// notAProof keeps the current version's own authentication failure from being
// taken for that of the version in question.
func notAProof(err error) error {
	err = fault.In("the old version was refused, but so was the witness, which proves nothing", err)
	if fault.Is(err, fault.AuthFailed) {
		return fault.New(fault.Target, "%w", err)
	}
	return err
}

const inUseQuery = `
SELECT coalesce(application_name, ''), coalesce(host(client_addr), ''), count(*)
FROM pg_stat_activity WHERE usename = $1 AND %s GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 100`

// InUse implements rotator.InUser. Client addresses are empty without
// pg_read_all_stats; sessions on standby servers count where replica_urls names those.
func (*Rotator) InUse(ctx context.Context, t *rotator.Target) ([]rotator.Use, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	uses, err := usesOn(ctx, connection.DB, t.Version.Identifier, "true")
	if err != nil || len(connection.replicas) == 0 {
		return uses, fault.In("look for sessions", err)
	}
	return connection.usesOnReplicas(ctx, t.Version.Identifier, uses)
}

// usesOn lists the sessions on one server, if it is one of which the condition holds.
func usesOn(ctx context.Context, db *postgres.DB, user, condition string) (uses []rotator.Use, err error) {
	err = db.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		return s.Each(ctx, fmt.Sprintf(inUseQuery, condition), []any{user}, func(scan func(...any) error) error {
			var u rotator.Use
			if err := scan(&u.ApplicationName, &u.ClientAddr, &u.Count); err != nil {
				return err
			}
			uses = append(uses, u)
			return nil
		})
	})
	return uses, err
}
