package postgresql

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// maxSightings bounds a survey. A role has a handful of users; those that the journal
// knows come first, then those of this mount, so that no crowd of others hides them.
const maxSightings = 1000

const surveyQuery = `
SELECT r.rolname::text, d.description, EXISTS (
	SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid AND g.rolname = $4) OR r.rolname = ANY ($6)
FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid AND d.classoid = 'pg_authid'::regclass
WHERE octet_length(d.description) <= $5 AND starts_with(d.description, $1) AND strpos(d.description, $2) > 0
ORDER BY r.rolname = ANY ($6) DESC, strpos(d.description, $7) > 0 DESC, r.rolname LIMIT $3`

// Survey implements rotator.Surveyor. Another mount's users count only where they
// act as the same group, or are the role's own standing ones: two mounts may well
// keep roles of one name for different applications of a cluster.
func (*Rotator) Survey(ctx context.Context, t *rotator.Target) ([]rotator.Sighting, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	options, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	known := append([]string{}, options.standingNames()...)
	for i := range t.Others {
		known = append(known, t.Others[i].Identifier)
	}
	var sightings []rotator.Sighting
	err = connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		args := []any{mark.Prefix + " ", " role=" + t.Role.Name + " ", maxSightings, options.MemberOf, mark.MaxBytes, known, " instance=" + t.Mark.Instance + " "}
		return s.Each(ctx, surveyQuery, args, func(scan func(...any) error) error {
			var name, comment string
			var sameGroup bool
			if err := scan(&name, &comment, &sameGroup); err != nil {
				return err
			}
			m, mac, err := mark.Parse(comment)
			if err != nil || m.Role != t.Role.Name {
				return nil // what is no mark is nobody's business
			}
			if authentic := t.MarkKey.Verify(m, mac, name); authentic || sameGroup {
				sightings = append(sightings, rotator.Sighting{Mark: m, Identifier: name, Authentic: authentic})
			}
			return nil
		})
	})
	return sightings, fault.In("look for marked users", err)
}
