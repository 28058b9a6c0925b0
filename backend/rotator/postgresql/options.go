package postgresql

import (
	"math"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

var roleOptionSet = option.Set{
	{Name: "strategy", Type: option.String, Default: newUser, Immutable: true, Help: "How versions follow each other: new_user makes a fresh database user for each version; alternate lets two standing users take turns; in_place changes the one user's password, with a gap."},
	{Name: "member_of", Type: option.String, Help: "The group role that each user becomes a member of and acts as; it owns the objects and holds the grants. Required with new_user, but for creation_statements; standing users that exist may do without."},
	{Name: "usernames", Type: option.List, Immutable: true, Help: "The two users of strategy alternate. One that is missing is made; one that exists is taken over with its password."},
	{Name: "username", Type: option.String, Immutable: true, Help: "The one user of strategy in_place; with the others, an existing user to take over as version 1, together with its password."},
	{Name: "password", Type: option.String, Secret: true, Help: "The present password of the user to take over, or of both users of strategy alternate that exist. It is checked by a login when the role is made, which changes nothing, and kept with the version alone."},
	{Name: "adopt_ownership", Type: option.Bool, Default: false, Help: "What an imported user owns is handed to member_of by the first rotation, and the user made a member, so that both can use it."},
	{Name: "drop_imported", Type: option.Bool, Default: false, Help: "An imported user is dropped when its version has ended. Default: it stays and may not log in."},
	{Name: "username_prefix", Type: option.String, Help: "Beginning of the user names, <prefix>_v<version>_<random>. Default: derived from the role's name."},
	{Name: "username_template", Type: option.String, Help: "Template of the user names, in place of username_prefix; knows .RoleName, .Version and .RotationID and must yield another name for each version."},
	{Name: "password_policy", Type: option.String, Help: "Vault password policy. Default: 40 random letters and digits."},
	{Name: "connection_limit", Type: option.Int, Default: int64(noConnectionLimit), Help: "CONNECTION LIMIT of each user; -1 for none. During the grace period two users live, each with this limit."},
	{Name: "settings", Type: option.Map, Help: "Settings of the users' sessions, as in ALTER ROLE ... SET; only those that every user may set. Names with a dot need allow_custom_statements on the connection."},
	{Name: "creation_statements", Type: option.Lines, Help: "SQL statements that make each user, in place of what member_of, settings and connection_limit do; they know {{name}}, {{password}} (a SCRAM verifier) and {{expiration}}. Needs allow_custom_statements on the connection."},
	{Name: "rotation_statements", Type: option.Lines, Help: "SQL statements that give a user its login: a standing one with each version, one made by creation_statements when a rollback brings it back; same placeholders. Default: ALTER ROLE ... LOGIN PASSWORD."},
	{Name: "revocation_statements", Type: option.Lines, Help: "SQL statements that run before a user is dropped, or when a version of two standing users has ended, in the connection's database; they know {{name}} and {{expiration}}. Needs allow_custom_statements on the connection."},
	{Name: "verification_statements", Type: option.Lines, Help: "SQL statements that a new user must be able to run before it is handed out; what they change is rolled back. Needs allow_custom_statements on the connection."},
}

type roleOptions struct {
	Strategy               string            `json:"strategy"`
	MemberOf               string            `json:"member_of"`
	Usernames              []string          `json:"usernames"`
	Username               string            `json:"username"`
	AdoptOwnership         bool              `json:"adopt_ownership"`
	DropImported           bool              `json:"drop_imported"`
	UsernamePrefix         string            `json:"username_prefix"`
	UsernameTemplate       string            `json:"username_template"`
	PasswordPolicy         string            `json:"password_policy"`
	ConnectionLimit        int64             `json:"connection_limit"`
	Settings               map[string]string `json:"settings"`
	CreationStatements     []string          `json:"creation_statements"`
	RotationStatements     []string          `json:"rotation_statements"`
	RevocationStatements   []string          `json:"revocation_statements"`
	VerificationStatements []string          `json:"verification_statements"`
}

func decodeRole(r *rotator.Role) (*roleOptions, error) {
	var o roleOptions
	if err := roleOptionSet.Decode(r.Values, &o); err != nil {
		return nil, err
	}
	return &o, nil
}

// CheckRole implements rotator.Rotator.
func (*Rotator) CheckRole(before, after *rotator.Role) error {
	o, err := decodeRole(after)
	if err != nil {
		return err
	}
	connection, err := decodeConnection(after.ConnectionValues)
	if err != nil {
		return err
	}
	for _, check := range []func() error{
		func() error { return o.checkStrategy(after.Name, connection) },
		func() error { return o.checkImport(before == nil, !after.Secrets[passwordKey].Empty()) },
		func() error { return o.checkMemberOf(connection) },
		o.checkLimits,
		func() error { return o.checkSettings(connection) },
		func() error { return o.checkCustom(connection) },
		func() error {
			return checkStatements("verification_statements", o.VerificationStatements, connection, "what it does is rolled back")
		},
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *roleOptions) checkLimits() error {
	if o.ConnectionLimit == 0 || o.ConnectionLimit < -1 || o.ConnectionLimit > math.MaxInt32 {
		return fault.Field("connection_limit", "must be -1 for no limit, or from 1 to %d", math.MaxInt32)
	}
	return nil
}

// Bounds of what a role may carry.
const (
	maxSettings        = 50
	maxSettingBytes    = 1024
	maxStatements      = 20
	maxStatementBytes  = 8192
	maxPasswordBytes   = 512
	maxNamePartOfRole  = 40
	maxTemplateBytes   = 512
	maxTemplateReplace = 2
	maxReplaceBytes    = 32
)

// noConnectionLimit is PostgreSQL's own number for it.
const noConnectionLimit = -1

// checkStatements checks statements that the operator wrote; transaction says what
// they run in.
func checkStatements(field string, statements []string, c *connectionOptions, transaction string) error {
	if len(statements) == 0 {
		return nil
	}
	if !c.AllowCustomStatements {
		return fault.Field(field, "need allow_custom_statements=true on the connection")
	}
	if len(statements) > maxStatements {
		return fault.Field(field, "must be at most %d", maxStatements)
	}
	for i, statement := range statements {
		if strings.TrimSpace(statement) == "" || len(statement) > maxStatementBytes || strings.ContainsRune(statement, 0) {
			return fault.Field(field, "statement %d is empty or longer than %d bytes", i+1, maxStatementBytes)
		}
		if postgres.EndsTransaction(statement) {
			return fault.Field(field, "statement %d must not begin or end a transaction: %s", i+1, transaction)
		}
	}
	return nil
}

// checkMemberOf requires a group but where creation_statements make the user, or
// users that stand have what they need.
func (o *roleOptions) checkMemberOf(c *connectionOptions) error {
	if o.MemberOf == "" && (len(o.CreationStatements) > 0 || o.standing()) {
		return nil
	}
	return checkGroupName(o.MemberOf, c)
}

// checkGroupName refuses a group that can be seen to be wrong without the server.
// Names with quotes, dots, capitals and letters of any script occur in practice
// and are quoted everywhere; a semicolon only ever occurs in an attempt to write
// a statement.
func checkGroupName(group string, c *connectionOptions) error {
	switch {
	case group == "":
		return fault.Field("member_of", "is required: name the group role that owns the objects or holds the grants")
	case len(group) > postgres.MaxIdentifier:
		return fault.Field("member_of", "must be at most %d bytes", postgres.MaxIdentifier)
	case strings.ContainsFunc(group, notInNames):
		return fault.Field("member_of", "is not the name of a role: it contains a semicolon or a control character")
	case strings.HasPrefix(group, predefinedPrefix):
		return fault.Field("member_of", "must not be a predefined role of PostgreSQL (%s...)", predefinedPrefix)
	case len(c.AllowedGroups) > 0 && !slices.Contains(c.AllowedGroups, group):
		return fault.Field("member_of", "is not among the connection's allowed_groups")
	}
	return nil
}
