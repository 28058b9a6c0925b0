package postgresql

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func testRole(values option.Values) *rotator.Role {
	return &rotator.Role{Name: "database", Values: values, ConnectionValues: option.Values{
		"connection_url": "postgresql://{{username}}:{{password}}@db:6432/app?sslmode=verify-full", "username": "admin",
		"allowed_groups": []string{"app", "other"}, "verify_connection": true,
	}}
}

// Bad input gets a sentence that names the field.
func TestCheckRoleRefuses(t *testing.T) {
	for _, c := range []struct {
		values option.Values
		field  string
		says   string
	}{
		{option.Values{}, "member_of", "required"},
		{option.Values{"member_of": `"; DROP ROLE postgres; --`}, "member_of", "not the name"},
		{option.Values{"member_of": strings.Repeat("x", 64)}, "member_of", "63"},
		{option.Values{"member_of": "pg_read_all_data"}, "member_of", "predefined"},
		{option.Values{"member_of": "stranger"}, "member_of", "allowed_groups"},
		{option.Values{"member_of": "app", "strategy": "swap"}, "strategy", "new_user, alternate, in_place"},
		{option.Values{"member_of": "app", "usernames": []string{"a", "b"}}, "usernames", "alternate"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a"}}, "usernames", "two different"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "a"}}, "usernames", "two different"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "x; DROP"}}, "usernames", "semicolon"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "pg_monitor"}}, "usernames", "predefined"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "admin"}}, "usernames", "connection's own"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "b"}, "username_prefix": "x"}, "username_prefix", "new_user"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "b"}, "drop_imported": true}, "drop_imported", "never dropped"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "b"}, "username": "c"}, "username", "one of usernames"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "b"}, "username": "a"}, "password", "required"},
		{option.Values{"strategy": "alternate", "usernames": []string{"a", "b"}, "adopt_ownership": true}, "adopt_ownership", "member_of"},
		{option.Values{"strategy": "in_place"}, "username", "required"},
		{option.Values{"strategy": "in_place", "username": "admin"}, "username", "connection's own"},
		{option.Values{"strategy": "in_place", "username": "a", "member_of": "app", "adopt_ownership": true}, "adopt_ownership", "successor"},
		{option.Values{"member_of": "app", "username": "by_hand"}, "password", "required"},
		{option.Values{"member_of": "app", "drop_imported": true}, "drop_imported", "username"},
		{option.Values{"member_of": "app", "colour": "red"}, "colour", "not an option"},
		{option.Values{"member_of": "app", "username_prefix": `a"; DROP ROLE x; --`}, "username_prefix", "plain"},
		{option.Values{"member_of": "app", "username_prefix": strings.Repeat("x", 41)}, "username_prefix", "40"},
		{option.Values{"member_of": "app", "username_prefix": "pg_app"}, "username_prefix", "pg_"},
		{option.Values{"member_of": "app", "username_prefix": "a", "username_template": "b"}, "username_template", "exclude"},
		{option.Values{"member_of": "app", "username_template": "same"}, "username_template", "each version"},
		{option.Values{"member_of": "app", "username_template": "{{.RoleName}}"}, "username_template", "each version"},
		{option.Values{"member_of": "app", "username_template": `x"; DROP ROLE y; --{{.Version}}`}, "username_template", "plain"},
		{option.Values{"member_of": "app", "username_template": "{{.Version}}"}, "username_template", "plain"},
		{option.Values{"member_of": "app", "username_template": "u{{.Version}}{{random 70}}"}, "username_template", "PostgreSQL allows 63"},
		{option.Values{"member_of": "app", "username_template": "{{.DisplayName}}"}, "username_template", "knows"},
		{option.Values{"member_of": "app", "username_template": "{{random"}, "username_template", "not a valid"},
		{option.Values{"member_of": "app", "username_template": "{{random 1000000000}}"}, "username_template", "too large"},
		{option.Values{"member_of": "app", "username_template": "{{range 1000000000}}x{{end}}"}, "username_template", "loops"},
		{option.Values{"member_of": "app", "username_template": `{{define "x"}}{{end}}a`}, "username_template", "not a valid"},
		{option.Values{"member_of": "app", "username_template": `{{$x := "a"}}`}, "username_template", "variables"},
		{option.Values{"member_of": "app", "username_template": `{{printf "%1000000d" 1}}`}, "username_template", "not a valid"},
		{option.Values{"member_of": "app", "username_template": `{{"a" | replace "a" "aa" | replace "a" "aa" | replace "a" "aa"}}`}, "username_template", "replace"},
		{option.Values{"member_of": "app", "username_template": `{{.RoleName | replace "" "` + strings.Repeat("x", 300) + `"}}`}, "username_template", "32 bytes"},
		{option.Values{"member_of": "app", "username_template": `{{.RoleName | replace (random 9) "x"}}`}, "username_template", "two texts"},
		{option.Values{"member_of": "app", "connection_limit": 0}, "connection_limit", "-1"},
		{option.Values{"member_of": "app", "connection_limit": -2}, "connection_limit", "-1"},
		{option.Values{"member_of": "app", "settings": map[string]string{"Role": "postgres"}}, "settings", "member_of"},
		{option.Values{"member_of": "app", "settings": map[string]string{"session_authorization": "postgres"}}, "settings", "session_authorization"},
		{option.Values{"member_of": "app", "settings": map[string]string{"Local_preload_libraries": "x"}}, "settings", "load code"},
		{option.Values{"member_of": "app", "settings": map[string]string{"session_preload_libraries": "x"}}, "settings", "load code"},
		{option.Values{"member_of": "app", "settings": map[string]string{"plperl.on_init": "x"}}, "settings", "allow_custom_statements"},
		{option.Values{"member_of": "app", "settings": map[string]string{"a b": "c"}}, "settings", "name"},
		{option.Values{"member_of": "app", "settings": map[string]string{"x; DROP": "c"}}, "settings", "name"},
		{option.Values{"member_of": "app", "settings": map[string]string{"work_mem": "1", "WORK_MEM": "2"}}, "settings", "twice"},
		{option.Values{"member_of": "app", "settings": map[string]string{"work_mem": strings.Repeat("1", 2000)}}, "settings", "longer"},
		{option.Values{"member_of": "app", "verification_statements": []string{"SELECT 1"}}, "verification_statements", "allow_custom_statements"},
	} {
		err := New().CheckRole(nil, testRole(c.values))
		require.True(t, fault.Is(err, fault.Invalid), "%v: %v", c.values, err)
		require.True(t, strings.HasPrefix(err.Error(), c.field+": "), "%v: %v", c.values, err)
		require.ErrorContains(t, err, c.says)
	}
	custom := testRole(option.Values{"member_of": "app", "verification_statements": []string{"SELECT 1", "/* */ Commit"}})
	custom.ConnectionValues["allow_custom_statements"] = true
	require.ErrorContains(t, New().CheckRole(nil, custom), "verification_statements: statement 2 must not begin or end a transaction")
	require.NoError(t, New().CheckRole(nil, testRole(option.Values{"member_of": "app", "connection_limit": 5})))
	require.Len(t, New().Warnings(testRole(option.Values{"member_of": "app", "connection_limit": 5})), 1)
	require.Empty(t, New().Warnings(testRole(option.Values{"member_of": "app"})))
}

func TestCheckConnection(t *testing.T) {
	const good = "postgresql://{{username}}:{{password}}@db/app?sslmode=verify-full"
	check := func(values option.Values, secrets map[string]string) ([]string, error) {
		return NewConnectionKind().CheckConnection(&rotator.ConnectionConfig{Name: "main", Values: values, Secrets: secret.NewMap(secrets)})
	}
	for _, c := range []struct {
		values option.Values
		field  string
	}{
		{option.Values{"connection_url": good}, "username"},
		{option.Values{"username": "a"}, "connection_url"},
		{option.Values{"connection_url": "postgresql://a:canary@db/app", "username": "a"}, "connection_url"},
		{option.Values{"connection_url": good, "username": "a", "tls_ca": "garbage"}, "tls_ca"},
		{option.Values{"connection_url": good, "username": "a", "tls_certificate": "garbage"}, "tls_certificate"},
		{option.Values{"connection_url": good, "username": "a", "max_open_connections": 1}, "max_open_connections"},
		{option.Values{"connection_url": good, "username": "a", "max_idle_connections": 9}, "max_idle_connections"},
		{option.Values{"connection_url": good, "username": "a", "connect_timeout": 0}, "connect_timeout"},
		{option.Values{"connection_url": good, "username": "a", "statement_timeout": 100000}, "statement_timeout"},
		{option.Values{"connection_url": good, "username": "a", "allowed_groups": []string{"pg_monitor"}}, "allowed_groups"},
	} {
		_, err := check(c.values, map[string]string{"password": "canary"})
		require.True(t, fault.Is(err, fault.Invalid), "%v: %v", c.values, err)
		require.True(t, strings.HasPrefix(err.Error(), c.field+": "), "%v: %v", c.values, err)
		require.NotContains(t, err.Error(), "canary")
	}
	_, err := check(option.Values{"connection_url": good, "username": "a"}, nil)
	require.ErrorContains(t, err, "password: ")

	for mode, says := range map[string]string{"": "prefer", "?sslmode=prefer": "plain text", "?sslmode=allow": "allow", "?sslmode=disable": "nothing is encrypted", "?sslmode=require": "who the server is", "?sslmode=verify-ca": "this host's"} {
		warnings, err := check(option.Values{"connection_url": "postgresql://db/app" + mode, "username": "a"}, map[string]string{"password": "p"})
		require.NoError(t, err)
		require.Len(t, warnings, 1)
		require.Contains(t, warnings[0], says)
	}
	warnings, err := check(option.Values{"connection_url": good, "username": "a"}, map[string]string{"password": "p"})
	require.NoError(t, err)
	require.Empty(t, warnings)
	warnings, err = check(option.Values{"connection_url": good, "username": "a", "allow_weak_auth": true, "allow_custom_statements": true}, map[string]string{"password": "p"})
	require.NoError(t, err)
	require.Len(t, warnings, 2)
}

func TestAddressNeedsThePasswordAgain(t *testing.T) {
	before := option.Values{"connection_url": "a", "username": "u", "tls_ca": "c"}
	for _, name := range []string{"connection_url", "username", "tls_ca", "tls_server_name"} {
		after := option.Values{"connection_url": "a", "username": "u", "tls_ca": "c"}
		after[name] = "changed"
		require.Equal(t, []string{name}, connectionOptionSet.Changed(before, after, func(o option.Option) bool { return o.Address }))
	}
}

func TestRender(t *testing.T) {
	target := &rotator.Target{
		Role: testRole(option.Values{"member_of": "app"}), Version: rotation.Version{Number: 1, Identifier: "user.one"},
		Material: secret.NewMap(map[string]string{"password": "p@ss/:?#%"}),
	}
	want := map[string]any{
		"username": "user.one", "password": "p@ss/:?#%", "host": "db", "port": 6432, "database": "app",
		"connection_url": "postgresql://user.one:p%40ss%2F%3A%3F%23%25@db:6432/app?sslmode=verify-full",
	}
	for range 3 {
		got, err := New().Render(target)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	target.Material = nil
	_, err := New().Render(target)
	require.True(t, fault.Is(err, fault.Conflict))
}

func TestDerivedNames(t *testing.T) {
	for role, want := range map[string]string{
		"database": `^database_v7_[a-z0-9]{8}$`, "My-App.prod": `^my_app_prod_v7_[a-z0-9]{8}$`, "9lives": `^r_9lives_v7_[a-z0-9]{8}$`,
		"pg_x": `^r_pg_x_v7_[a-z0-9]{8}$`, strings.Repeat("x", 200): `^x{40}_v7_[a-z0-9]{8}$`, "ünïcode": `^_n_code_v7_[a-z0-9]{8}$`,
	} {
		name, err := (&roleOptions{}).name(nameData{role, 7, "r"})
		require.NoError(t, err)
		require.Regexp(t, want, name)
	}
	name, err := (&roleOptions{UsernameTemplate: `v-{{.RoleName | truncate 4 | uppercase}}-{{.Version}}-{{.RotationID | sha256 | truncate 6}}`}).name(nameData{"database", 7, "r"})
	require.NoError(t, err)
	require.Equal(t, "v-DATA-7-454349", name)
	name, err = (&roleOptions{UsernameTemplate: `{{.RoleName | replace "-" "_" | replace "." "_"}}_{{.Version}}`}).name(nameData{"a-b.c", 7, "r"})
	require.NoError(t, err)
	require.Equal(t, "a_b_c_7", name)
}

// Whatever a template is, it yields a plain name in no time, or a clear refusal.
func FuzzUserName(f *testing.F) {
	for _, seed := range []string{
		`u{{.Version}}`, `{{.RoleName}}_{{.RotationID | truncate 8}}`, `"; DROP ROLE x; --{{.Version}}`, `{{range 9}}x{{end}}`, `{{"a" | replace "" "bb"}}`,
		`{{template "x"}}`, `{{if true}}a{{end}}`, `{{timestamp "2006"}}`, "\x00{{.Version}}", `{{call .}}`, `{{random -1}}`, `{{.RoleName.X}}`, `{{truncate 9999999999999999999 "x"}}`,
	} {
		f.Add(seed, "role")
	}
	plain := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.@-]{0,62}$`)
	f.Fuzz(func(t *testing.T, text, role string) {
		for _, o := range []roleOptions{{UsernameTemplate: text}, {UsernamePrefix: text}, {}} {
			if len(role) > 200 {
				return
			}
			err := o.checkNames(role)
			if err != nil {
				require.True(t, fault.Is(err, fault.Invalid), "%v", err)
				continue
			}
			name, err := o.name(nameData{role, 3, "rotation-id"})
			if err == nil {
				require.Regexp(t, plain, name)
			}
		}
	})
}

func FuzzGroupName(f *testing.F) {
	f.Add("app")
	f.Add(`"; DROP ROLE x; --`)
	f.Fuzz(func(t *testing.T, group string) {
		if checkGroupName(group, &connectionOptions{}) == nil {
			require.NotContains(t, group, ";")
			require.LessOrEqual(t, len(group), 63)
			require.Equal(t, strings.Count(group, `"`)*2+2, strings.Count(quoted(group), `"`), "every quote is doubled")
		}
	})
}

type fixedPolicy struct {
	password string
	err      error
}

func (p fixedPolicy) GeneratePasswordFromPolicy(context.Context, string) (string, error) {
	return p.password, p.err
}

func TestPasswords(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p, err := mintPassword(t.Context(), "", nil)
		require.NoError(t, err)
		require.Regexp(t, `^[A-Za-z0-9]{40}$`, p.Reveal())
		require.False(t, seen[p.Reveal()])
		seen[p.Reveal()] = true
	}
	for _, bad := range []string{"", "ünï", "a\x00b", strings.Repeat("x", 600), "tab\t"} {
		_, err := mintPassword(t.Context(), "p", fixedPolicy{bad, nil})
		require.True(t, fault.Is(err, fault.Invalid), "%q", bad)
		require.ErrorContains(t, err, "password_policy: ")
	}
	_, err := mintPassword(t.Context(), "p", fixedPolicy{"", fmt.Errorf("no such policy")})
	require.ErrorContains(t, err, "no such policy")
	p, err := mintPassword(t.Context(), "p", fixedPolicy{"a b~!", nil})
	require.NoError(t, err)
	require.Equal(t, "a b~!", p.Reveal())
}
