package postgresql

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

const createIt = `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`

func TestCheckCustomStatements(t *testing.T) {
	list := func(statements ...string) []string { return statements }
	for _, c := range []struct {
		values option.Values
		field  string
		says   string
	}{
		{option.Values{"creation_statements": list(createIt, "COMMIT")}, "creation_statements", "statement 2 must not begin or end a transaction"},
		{option.Values{"creation_statements": list(" ")}, "creation_statements", "empty"},
		{option.Values{"creation_statements": list(createIt, "GRANT x TO {{username}}")}, "creation_statements", "statement 2 has a placeholder that is not known here: {{username}}; valid is {{name}}"},
		{option.Values{"creation_statements": list(`CREATE ROLE "{{ name }}"`)}, "creation_statements", "not known"},
		{option.Values{"creation_statements": list(`CREATE ROLE "{{name}}"`)}, "creation_statements", "must mention {{password}}"},
		{option.Values{"creation_statements": list(`CREATE ROLE x PASSWORD '{{password}}'`)}, "creation_statements", "must mention {{name}}"},
		{option.Values{"creation_statements": list(createIt), "settings": map[string]string{"work_mem": "1MB"}}, "settings", "creation_statements"},
		{option.Values{"creation_statements": list(createIt), "connection_limit": 3}, "connection_limit", "creation_statements"},
		{option.Values{"creation_statements": list(createIt), "rotation_statements": list("SELECT '{{name}}'")}, "rotation_statements", "must mention {{password}}"},
		{option.Values{"member_of": "app", "rotation_statements": list(`ALTER ROLE "{{name}}" PASSWORD '{{password}}'`)}, "rotation_statements", "need creation_statements"},
		{option.Values{"member_of": "app", "revocation_statements": list(`SELECT '{{name}}{{password}}'`)}, "revocation_statements", "not known here: {{password}}"},
		{option.Values{"member_of": "app", "revocation_statements": list(`SELECT 1`)}, "revocation_statements", "must mention {{name}}"},
		{option.Values{"revocation_statements": list(`DROP OWNED BY "{{name}}"`)}, "member_of", "required"},
	} {
		role := testRole(c.values)
		role.ConnectionValues["allow_custom_statements"] = true
		err := New().CheckRole(nil, role)
		require.True(t, fault.Is(err, fault.Invalid), "%v: %v", c.values, err)
		require.True(t, strings.HasPrefix(err.Error(), c.field+": "), "%v: %v", c.values, err)
		require.ErrorContains(t, err, c.says)
	}
	good := testRole(option.Values{"creation_statements": list(createIt, "SELECT '{{1,2}}'::int[]"), "revocation_statements": list(`DROP OWNED BY "{{name}}"`)})
	require.ErrorContains(t, New().CheckRole(nil, good), "creation_statements: need allow_custom_statements")
	good.ConnectionValues["allow_custom_statements"] = true
	require.NoError(t, New().CheckRole(nil, good))
}
