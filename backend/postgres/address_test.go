package postgres

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestParseAddress(t *testing.T) {
	one := []Host{{"db", 5432}}
	for text, want := range map[string]Address{
		"postgresql://{{username}}:{{password}}@db:5432/app?sslmode=verify-full": {Hosts: one, Database: "app", SSLMode: "verify-full"},
		"postgres://db/app":                                                                                            {Hosts: one, Database: "app"},
		"postgres://{{username}}@db/a%2Fb%40c%20d":                                                                     {Hosts: one, Database: "a/b@c d"},
		"postgres://%7B%7Busername%7D%7D:%7B%7Bpassword%7D%7D@db/app":                                                  {Hosts: one, Database: "app"},
		"postgres://a:1,[::1]:2,c/app?target_session_attrs=read-write":                                                 {Hosts: []Host{{"a", 1}, {"::1", 2}, {"c", 5432}}, Database: "app", TargetSessionAttrs: "read-write"},
		"host=db dbname=app user={{username}} password='{{password}}'":                                                 {Hosts: one, Database: "app"},
		`host = a,b port=6000 dbname='it\'s' sslmode=require  application_name=x\ y`:                                   {Hosts: []Host{{"a", 6000}, {"b", 6000}}, Database: "it's", SSLMode: "require", ApplicationName: "x y"},
		"postgresql://{{username}}:{{password}}@db/app?channel_binding=require":                                        {Hosts: one, Database: "app", ChannelBinding: "require"},
		"postgresql://{{username}}:{{password}}@10.0.0.1:6432/app?sslmode=verify-ca&application_name=vault%20rotation": {Hosts: []Host{{"10.0.0.1", 6432}}, Database: "app", SSLMode: "verify-ca", ApplicationName: "vault rotation"},
	} {
		got, err := ParseAddress(text)
		require.NoError(t, err, text)
		require.Equal(t, want, *got, text)
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                                "database",
		"nonsense":                                        "keyword=value",
		"postgres:///app":                                 "host",
		"postgres://db":                                   "database",
		"postgres://db/":                                  "database",
		"postgres://me@db/app":                            "user name",
		"postgres://x{{username}}@db/app":                 "user name",
		"postgres://{{username}}:canary@db/x":             "password",
		"postgres://{{username}}:can@ry@db/x":             "password",
		"postgres://{{username}}:can/ry@db/x":             "malformed",
		"postgres://u:can:ary@db/x":                       "user name",
		"postgres://db:canary/x":                          "port",
		"postgres://db:0/x":                               "port",
		"postgres://db:70000/x":                           "port",
		"postgres://%2Fvar%2Frun/x":                       "unix socket",
		"host=/tmp dbname=x":                              "unix socket",
		"host=@abstract dbname=x":                         "unix socket",
		`host=C:\\x dbname=x`:                             "neither a name",
		"postgres://a%2Cb/x":                              "malformed",
		"postgres://a,b:1,c/x?port=1":                     "in its place",
		"host=a,b,c port=1,2 dbname=x":                    "one port, or as many",
		"postgres://db/x?passfile=/etc/passwd":            "file of the machine",
		"postgres://db/x?sslkey=/etc/shadow":              "private_key",
		"postgres://db/x?sslcert=a":                       "tls_certificate",
		"postgres://db/x?sslrootcert=a":                   "tls_ca",
		"postgres://db/x?ssl%72ootcert=a":                 "tls_ca",
		"postgres://db/x?options=-c":                      "options",
		"postgres://db/x?service=a":                       "file of the machine",
		"postgres://db/x?servicefile=a":                   "file of the machine",
		"postgres://db/x?user=a":                          "in its place",
		"postgres://db/x?password=canary":                 "in its place",
		"postgres://db/x?sslmode=yes":                     "verify-full",
		"postgres://db/x?ssl=true":                        "sslmode=verify-full",
		"postgres://db/x?sslmode=require&sslmode=disable": "more than once",
		"postgres://db/x?canary=1":                        "not known",
		"postgres://db/x?sslmode":                         "malformed",
		"postgres://db/%zz":                               "malformed",
		"postgres://[::1/x":                               "malformed",
		"postgres://db/{{password}}":                      "only in the place",
		"host=db dbname='x":                               "malformed",
		"host=db dbname=x\\":                              "malformed",
		"host=db\x00 dbname=x":                            "control",
		"host=db hostaddr=1.2.3.4 dbname=x":               "not known",
		strings.Repeat("x", 5000):                         "at most",
	} {
		_, err := ParseAddress(text)
		require.True(t, fault.Is(err, fault.Invalid), "%q: %v", text, err)
		require.ErrorContains(t, err, "connection_url: ", text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "canary", text)
	}
}

func TestAddressURL(t *testing.T) {
	a, err := ParseAddress("postgres://{{username}}@[::1]:1,b:2/a%2Fb?sslmode=require&application_name=admin&target_session_attrs=primary")
	require.NoError(t, err)
	text := a.URL(`u@:/?#[]é "'%`, `p@:/?#&=+ \x"'é%`)
	u, err := pgconn.ParseConfig(text)
	require.NoError(t, err, "a client reads it: %s", text)
	require.Equal(t, `u@:/?#[]é "'%`, u.User)
	require.Equal(t, `p@:/?#&=+ \x"'é%`, u.Password)
	require.Equal(t, "a/b", u.Database)
	require.Equal(t, "::1", u.Host)
	require.Len(t, u.Fallbacks, 1)
	require.NotContains(t, text, "application_name")
}

// Whatever is accepted must mean the same to the driver's own parser, must not
// name a file or socket, and must come back from the URL we render.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{
		"postgresql://{{username}}:{{password}}@db:5432/app?sslmode=verify-full",
		"host=a,b port=1,2 dbname='x y' sslmode=disable", "postgres://a:1,[::1]:2/b%20c", "postgres://u:p@h/d?host=/tmp",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			require.True(t, fault.Is(err, fault.Invalid))
			return
		}
		require.NotEmpty(t, a.Hosts)
		for _, h := range a.Hosts {
			require.False(t, strings.ContainsAny(h.Name, "/@, \\"), h.Name)
		}
		again, err := ParseAddress(strings.Replace(a.URL("user", "pass"), "user:pass", url.PathEscape(UsernamePlaceholder)+":"+url.PathEscape(PasswordPlaceholder), 1))
		require.NoError(t, err)
		again.ApplicationName = a.ApplicationName
		require.Equal(t, a, again)
	})
}
