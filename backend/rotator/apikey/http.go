package apikey

import (
	"maps"
	"regexp"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// httpKind is the type of connection to any API, which a definition describes.
//
// The definition and its parameters count as an address: they say where in a request the
// admin key goes, and so must not be changed by who does not know it.
var httpKind = providerKind{
	typ: "http",
	options: option.Set{
		{Name: definitionField, Type: option.String, Address: true, Help: "How the API makes, lists, verifies and ends keys: a JSON document, see docs/http-provider.md."},
		{Name: "parameters", Type: option.Map, Address: true, Help: "Values of the placeholders in the definition that are not its own, such as service_account=42."},
		{Name: "admin_secret", Type: option.String, Secret: true, Help: "A second secret that goes along with admin_key, for APIs that ask for two."},
	},
	complete: completeHTTP,
	check:    func(s *settings) error { return s.definition.checkSecrets(s) },
	anchors:  func(s *settings) map[string]string { return s.Parameters },
	open: func(s *settings, client *egress.Client) (provider, error) {
		return newHTTPProvider(s, client)
	},
}

// completeHTTP parses the definition.
func completeHTTP(s *settings) ([]string, error) {
	if err := checkParameters(s.Parameters); err != nil {
		return nil, err
	}
	d, warnings, err := parseDefinition(s.Definition, s.Parameters)
	if err != nil {
		return nil, err
	}
	if s.BaseURL == "" {
		s.BaseURL = d.BaseURL
	}
	s.definition = d
	return warnings, nil
}

// checkSecrets asks for the secrets that the definition needs.
func (d *definition) checkSecrets(s *settings) error {
	for _, given := range []struct {
		name  string
		value secret.String
	}{{adminKeyValue, s.AdminKey}, {adminSecretValue, s.AdminSecret}} {
		text := given.value.Reveal()
		switch needed := d.Admin != nil && d.Admin.mentions(given.name); {
		case needed && text == "":
			return fault.Field(given.name, "is required: the definition's admin mentions it")
		case !isPrintable(text) || len(text) > maxKey:
			return fault.Field(given.name, "must be printable ASCII without spaces, at most %d bytes: a line break at its end, perhaps?", maxKey)
		}
	}
	return nil
}

// mentions tells whether a placeholder is in what proves who calls.
func (a *authSpec) mentions(name string) bool {
	all := slices.Concat(a.headers, a.query, []pair{{value: a.username}, {value: a.password}})
	return slices.ContainsFunc(all, func(p pair) bool { return p.value.mentions(name) })
}

var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// maxParameterBytes bounds the value of a parameter.
const maxParameterBytes = 1024

// checkParameters refuses values that a template cannot take. Wherever they stand in a
// request, they are harmless then.
func checkParameters(parameters map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		switch value := parameters[name]; {
		case !parameterName.MatchString(name):
			return fault.Field("parameters", "%.64q is not a name: letters, digits and _, at most 64", name)
		case belongs[name] != "":
			return fault.Field("parameters", "%s is a placeholder of its own: choose another name", name)
		case value == "" || len(value) > maxParameterBytes || !printable(value):
			return fault.Field("parameters", "%s must be from 1 to %d characters of printable ASCII", name, maxParameterBytes)
		}
	}
	return nil
}
