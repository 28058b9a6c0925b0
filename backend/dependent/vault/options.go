package vault

import (
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// The ways to be known to the Vault.
const (
	authToken   = "token"
	authAppRole = "approle"
)

var connectionOptionSet = option.Set{
	{Name: "address", Type: option.String, Address: true, Help: "URL of the Vault, such as https://vault.example.com:8200: its active node's, or one that is balanced to it, since redirects of a standby are not followed."},
	{Name: "namespace", Type: option.String, Address: true, Help: "Namespace to work in (Vault Enterprise)."},
	{Name: "allow_insecure_http", Type: option.Bool, Default: false, Address: true, Help: "Admit http:// in address: tokens and secrets then travel in clear."},
	{Name: "ca_cert", Type: option.String, Address: true, Help: "Certificate authority of the Vault, in PEM form. Default: the system's."},
	{Name: "tls_server_name", Type: option.String, Address: true, Help: "Name to expect in the Vault's certificate. Default: the host's."},
	{Name: "auth", Type: option.String, Default: authAppRole, Help: "How to be known to the Vault: approle, which is the default, or token."},
	{Name: "auth_mount", Type: option.String, Default: authAppRole, Address: true, Help: "Where the auth method AppRole is mounted there."},
	{Name: "role_id", Type: option.String, Help: "The AppRole's role id."},
	{Name: "secret_id", Type: option.String, Secret: true, Help: "The AppRole's secret id."},
	{Name: "token", Type: option.String, Secret: true, Help: "With auth=token: a token. It is renewed when it is used; a periodic one does not end so."},
	{Name: "allowed_paths", Type: option.List, Help: "What roles may name through this connection: secrets of KV version 2 to mirror to, and keys of transit, as mount/path; * stands for anything, such as secret/intelliflow/*. Default: none."},
}

// settings are the decoded options.
type settings struct {
	Address      string   `json:"address"`
	Namespace    string   `json:"namespace"`
	Insecure     bool     `json:"allow_insecure_http"`
	CACert       string   `json:"ca_cert"`
	ServerName   string   `json:"tls_server_name"`
	Auth         string   `json:"auth"`
	AuthMount    string   `json:"auth_mount"`
	RoleID       string   `json:"role_id"`
	AllowedPaths []string `json:"allowed_paths"`

	secretID, token secret.String
}

// decode reads stored values, in which the options common to all connections may stand too.
func decode(c *rotator.ConnectionConfig) (*settings, error) {
	own := option.Values{}
	for name, value := range c.Values {
		if o := connectionOptionSet.Named(name); o != nil && !o.Secret {
			own[name] = value
		}
	}
	s := &settings{secretID: c.Secrets["secret_id"], token: c.Secrets["token"]}
	return s, connectionOptionSet.Decode(own, s)
}

// check refuses what can be seen to be wrong without the network.
func (s *settings) check() error {
	if _, err := vaultclient.CheckAddress(s.Address, s.Insecure); err != nil {
		return err
	}
	switch {
	case s.Namespace != "" && !plain(strings.Trim(s.Namespace, "/")):
		return fault.Field("namespace", "must be names of namespaces between slashes, such as team/prod")
	case s.ServerName != "" && (!sendable(s.ServerName) || strings.ContainsAny(s.ServerName, "/:@")):
		return fault.Field("tls_server_name", "must be the name of a host")
	}
	if err := s.checkAuth(); err != nil {
		return err
	}
	for _, pattern := range s.AllowedPaths {
		if err := checkPattern(pattern); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) checkAuth() error {
	switch s.Auth {
	case authToken:
		if s.token.Empty() {
			return fault.Field("token", "is required with auth=token")
		}
		if !sendable(s.token.Reveal()) {
			return fault.Field("token", "holds characters that no token has, such as a line break or a blank")
		}
	case authAppRole:
		switch {
		case s.RoleID == "":
			return fault.Field("role_id", "is required with auth=approle")
		case !sendable(s.RoleID):
			return fault.Field("role_id", "holds characters that no role id has, such as a line break or a blank")
		case s.secretID.Empty():
			return fault.Field("secret_id", "is required with auth=approle")
		case !sendable(s.secretID.Reveal()):
			return fault.Field("secret_id", "holds characters that no secret id has, such as a line break or a blank")
		case !plain(s.AuthMount):
			return fault.Field("auth_mount", "must be the path of the auth method below auth/, such as approle")
		}
	default:
		return fault.Field("auth", "must be %s or %s", authAppRole, authToken)
	}
	return nil
}

// checkPattern refuses what admits no path that a role can name.
func checkPattern(pattern string) error {
	if vaultclient.CheckPath(strings.ReplaceAll(pattern, "*", "x")) != nil && pattern != "*" {
		return fault.Field("allowed_paths", "has %q, which fits no path: a mount and what lies in it, with * for anything, such as secret/intelliflow/*", pattern)
	}
	return nil
}

// plain tells whether a text is a path of Vault, of one segment or more.
func plain(path string) bool { return vaultclient.CheckPath("x/"+path) == nil }

func sendable(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// warnings say what is accepted with a doubt.
func (s *settings) warnings() (out []string) {
	if strings.HasPrefix(s.Address, "http://") {
		out = append(out, "allow_insecure_http: tokens and secrets travel in clear to "+s.Address)
	}
	if s.Auth == authToken && (s.RoleID != "" || !s.secretID.Empty()) || s.Auth == authAppRole && !s.token.Empty() {
		out = append(out, "auth="+s.Auth+": what belongs to the other way to log in is kept, and not used")
	}
	if len(s.AllowedPaths) == 0 {
		out = append(out, "allowed_paths is empty: no role can mirror to this Vault, or use its transit keys")
	}
	if slices.Contains(s.AllowedPaths, "*") {
		out = append(out, "allowed_paths has *: whoever may write a role may have it write to whatever this connection may")
	}
	return out
}

func (s *settings) client() vaultclient.Options {
	return vaultclient.Options{
		Address: s.Address, AllowInsecureHTTP: s.Insecure, Namespace: strings.Trim(s.Namespace, "/"), CA: s.CACert, ServerName: s.ServerName,
		Credential: vaultclient.Credential{
			Token: s.token, AppRole: s.Auth == authAppRole, Mount: s.AuthMount, RoleID: s.RoleID, SecretID: s.secretID,
		},
	}
}
