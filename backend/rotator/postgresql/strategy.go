package postgresql

import (
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// The strategies: how the versions of a role follow each other.
const (
	newUser   = "new_user"  // a fresh user for each version, dropped when it has ended
	alternate = "alternate" // two standing users that take turns
	inPlace   = "in_place"  // one standing user whose password changes
)

var strategies = []string{newUser, alternate, inPlace}

// standing tells whether the role's users outlive their versions.
func (o *roleOptions) standing() bool { return isStanding(o.Strategy) }

func isStanding(strategy string) bool { return strategy == alternate || strategy == inPlace }

// objectStrategy is what a version's object remembers of it.
func (o *roleOptions) objectStrategy() string {
	if o.standing() {
		return o.Strategy
	}
	return ""
}

// standingNames are the role's standing users.
func (o *roleOptions) standingNames() []string {
	switch o.Strategy {
	case alternate:
		return o.Usernames
	case inPlace:
		return []string{o.Username}
	}
	return nil
}

// InPlace implements rotator.InPlace.
func (*Rotator) InPlace(r *rotator.Role) bool {
	o, err := decodeRole(r)
	return err == nil && o.Strategy == inPlace
}

// Warnings implements rotator.Warner.
func (*Rotator) Warnings(r *rotator.Role) (warnings []string) {
	o, err := decodeRole(r)
	if err != nil {
		return nil
	}
	if o.ConnectionLimit > 0 && o.Strategy != inPlace {
		warnings = append(warnings, "connection_limit counts for each user: during the grace period the old and the new one may have that many connections each")
	}
	if o.Strategy == inPlace {
		warnings = append(warnings, "strategy in_place has a gap: from the moment the password changes until a reader reads again, what it holds is refused. Where two users are possible, use alternate")
	}
	return warnings
}

// checkStrategy refuses options that the strategy has no use for, and names that
// cannot be those of users.
func (o *roleOptions) checkStrategy(role string, c *connectionOptions) error {
	if !slices.Contains(strategies, o.Strategy) {
		return fault.Field("strategy", "is not known; valid is %s", strings.Join(strategies, ", "))
	}
	if o.Strategy != alternate && len(o.Usernames) > 0 {
		return fault.Field("usernames", "are for strategy=alternate alone")
	}
	if !o.standing() {
		return o.checkNames(role)
	}
	switch {
	case o.UsernamePrefix != "" || o.UsernameTemplate != "":
		return fault.Field("username_prefix", "and username_template are for strategy=new_user: standing users have the names you give them")
	case o.DropImported:
		return fault.Field("drop_imported", "is for strategy=new_user: standing users are never dropped")
	case o.Strategy == alternate && (len(o.Usernames) != 2 || o.Usernames[0] == o.Usernames[1]):
		return fault.Field("usernames", "must name two different users that take turns")
	case o.Strategy == inPlace && o.Username == "":
		return fault.Field("username", "is required: the user whose password changes in place")
	}
	for _, name := range o.standingNames() {
		field := "usernames"
		if o.Strategy == inPlace {
			field = "username"
		}
		if err := o.checkStandingName(field, name, c); err != nil {
			return err
		}
	}
	return nil
}

func (o *roleOptions) checkStandingName(field, name string, c *connectionOptions) error {
	if name != "" && name == c.Username {
		return fault.Field(field, "must not be the connection's own user: write connections/<name>/rotate-root for that one")
	}
	if name != "" && name == o.MemberOf {
		return fault.Field(field, "must not be the group itself")
	}
	return o.checkExistingName(field, name)
}

// checkExistingName admits what people call their users: upper case, quotes, dots
// and letters of any script; see checkGroupName.
func (o *roleOptions) checkExistingName(field, name string) error {
	switch {
	case name == "" || len(name) > postgres.MaxIdentifier:
		return fault.Field(field, "must have from 1 to %d bytes", postgres.MaxIdentifier)
	case len(o.CreationStatements)+len(o.RotationStatements)+len(o.RevocationStatements) > 0 && !userName.MatchString(name):
		return fault.Field(field, "must be plain where the role has SQL statements: a letter or underscore, then letters, digits and _.@-")
	case strings.EqualFold(name, "public"), strings.EqualFold(name, "none"):
		return fault.Field(field, "is a name that PostgreSQL reserves")
	case strings.ContainsFunc(name, notInNames):
		return fault.Field(field, "contains a semicolon or a control character, so it is not the name of a user")
	case strings.HasPrefix(name, predefinedPrefix):
		return fault.Field(field, "must not be a predefined role of PostgreSQL (%s...)", predefinedPrefix)
	}
	return nil
}

func notInNames(r rune) bool { return r < ' ' || r == 0x7f || r == ';' || r == '\uFFFD' }

// checkImport refuses options of a take-over that cannot be one.
func (o *roleOptions) checkImport(isNew, password bool) error {
	if o.Username != "" && o.Strategy != inPlace {
		if err := o.checkExistingName("username", o.Username); err != nil {
			return err
		}
	}
	switch {
	case o.Strategy == alternate && o.Username != "" && !slices.Contains(o.Usernames, o.Username):
		return fault.Field("username", "must be one of usernames: the one to begin with")
	case o.Strategy == newUser && o.Username == "" && password:
		return fault.Field("username", "is required with password: the existing user to take over")
	case isNew && o.Strategy != inPlace && o.Username != "" && !password:
		return fault.Field("password", "is required with username: the present password of the user to take over")
	case o.DropImported && o.Username == "":
		return fault.Field("drop_imported", "has no meaning without username, the user to take over")
	case o.AdoptOwnership && o.MemberOf == "":
		return fault.Field("adopt_ownership", "needs member_of: the group that is to own what the imported user owns")
	case o.AdoptOwnership && (o.Strategy == inPlace || o.Strategy == newUser && o.Username == "" || o.Strategy == alternate && isNew && !password):
		return fault.Field("adopt_ownership", "is for a user that is taken over and has a successor: it needs username, and another strategy than in_place")
	}
	return nil
}
