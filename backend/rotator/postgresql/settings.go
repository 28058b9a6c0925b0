package postgresql

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

var (
	settingName      = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.]*$`)
	reservedSettings = []string{"role", "session_authorization"}
)

// librarySettings make the server load code, although some may be set by everybody.
const librarySettings = "_preload_libraries"

// modulePrefixes begin the settings of PostgreSQL's own modules that are not
// extensions, or not named as theirs.
var modulePrefixes = []string{
	"auth_delay", "auto_explain", "basic_archive", "basebackup_to_shell", "passwordcheck", "pgaudit", "plperl", "plpgsql", "plpython", "plpython3", "pltcl", "sepgsql",
}

// checkSettings refuses what can be seen to be wrong without the server.
func (o *roleOptions) checkSettings(c *connectionOptions) error {
	if len(o.Settings) > maxSettings {
		return fault.Field("settings", "must be at most %d", maxSettings)
	}
	seen := map[string]bool{}
	for name, value := range o.Settings {
		lower := strings.ToLower(name)
		switch {
		case !settingName.MatchString(name) || len(name) > postgres.MaxIdentifier || strings.Contains(name, "..") || strings.HasSuffix(name, "."):
			return fault.Field("settings", "has a name that is not the name of a setting (letters, digits, underscores and dots)")
		case slices.Contains(reservedSettings, lower):
			return fault.Field("settings", "must not set %s: member_of decides what a user acts as", lower)
		case strings.HasSuffix(lower, librarySettings):
			return fault.Field("settings", "must not set %s: it makes the server load code", lower)
		case strings.Contains(lower, ".") && !c.AllowCustomStatements:
			return fault.Field("settings", "must not set %s: names with a dot need allow_custom_statements=true on the connection", lower)
		case seen[lower]:
			return fault.Field("settings", "names %s twice", lower)
		case len(value) > maxSettingBytes || strings.ContainsRune(value, 0):
			return fault.Field("settings", "has a value of %s that is longer than %d bytes or not a text", lower, maxSettingBytes)
		}
		seen[lower] = true
	}
	return nil
}

// settingQuery finds who may set a setting, and whether its prefix belongs to an
// extension that could be loaded: what is an unknown name now is that extension's
// setting then, and has been given by the administrator.
const settingQuery = `
SELECT coalesce((SELECT context FROM pg_settings WHERE lower(name) = $1), ''),
	EXISTS (SELECT FROM pg_available_extensions WHERE lower(name) = split_part($1, '.', 1))`

// checkSettingsAt refuses what only an administrator could set: the administrator
// would be the one who sets it. Errors are Invalid and name settings.
func (o *roleOptions) checkSettingsAt(ctx context.Context, s *postgres.Session, c *connectionOptions) error {
	if err := o.checkSettings(c); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		name = strings.ToLower(name)
		prefix, _, dotted := strings.Cut(name, ".")
		var who string
		var extension bool
		if _, err := s.Row(ctx, settingQuery, []any{name}, &who, &extension); err != nil {
			return fault.In("look for the setting "+name, err)
		}
		switch {
		case who == "user":
		case who != "":
			return fault.Field("settings", "must not set %s: not every user may set it", name)
		case !dotted:
			return fault.Field("settings", "must not set %s: the server knows no such setting that every user may set", name)
		case extension || slices.Contains(modulePrefixes, prefix):
			return fault.Field("settings", "must not set %s: it belongs to an extension, which may keep it to superusers", name)
		}
	}
	return nil
}

// lookSettings is the line of a preflight.
func (o *roleOptions) lookSettings(ctx context.Context, s *postgres.Session, c *connectionOptions) (rotator.Line, error) {
	err := o.checkSettingsAt(ctx, s, c)
	switch {
	case fault.Is(err, fault.Invalid):
		return failed("settings", err), nil
	case err != nil:
		return rotator.Line{}, err
	}
	return passed("settings", "every user may set what the role sets"), nil
}
