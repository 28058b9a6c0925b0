package rotationsecrets

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// vocabulary is what the writes of one subject understand: options of every type,
// and options of each type alone. The Vault fields are derived from it.
type vocabulary struct {
	noun string
	// secrets says what becomes of the secrets among them.
	secrets string
	// selectors are options that root declares itself: type, connection.
	selectors option.Set
	common    option.Set
	kinds     map[string]option.Set
}

func roleVocabulary(engine *backend.Engine) vocabulary {
	v := vocabulary{noun: "role", secrets: "Never shown again, and not kept with the role.", common: backend.RoleOptions(), kinds: map[string]option.Set{}}
	for _, k := range engine.Kinds() {
		v.kinds[k.Name] = k.Options
	}
	v.selectors = option.Set{
		{Name: "type", Type: option.String, Immutable: true, Help: "Kind of secret: " + v.types() + ". Required for a new role."},
		{Name: "connection", Type: option.String, Help: "Name of the connection to the system in which the secret lives."},
	}
	return v
}

func connectionVocabulary(engine *backend.Engine) vocabulary {
	return reachVocabulary("connection", "system", backend.ConnectionOptions(), engine.ConnectionKinds())
}

func channelVocabulary(engine *backend.Engine) vocabulary {
	return reachVocabulary("channel", "channel", backend.ChannelOptions(), engine.ChannelKinds())
}

// reachVocabulary is that of what the mount reaches with secrets of its own.
func reachVocabulary[K interface {
	Type() string
	Options() option.Set
}](noun, of string, common option.Set, kinds []K) vocabulary {
	v := vocabulary{noun: noun, secrets: "Never shown again; when left out, the stored value is kept.", common: common, kinds: map[string]option.Set{}}
	for _, k := range kinds {
		v.kinds[k.Type()] = k.Options()
	}
	v.selectors = option.Set{
		{Name: "type", Type: option.String, Immutable: true, Help: "Type of " + of + ": " + v.types() + ". Required for a new " + noun + "."},
	}
	return v
}

// types names the types in a sentence.
func (v vocabulary) types() string {
	return strings.Join(slices.Sorted(maps.Keys(v.kinds)), ", ")
}

// typeGiven is the type that a write gives, or else the stored one.
func (v vocabulary) typeGiven(data *framework.FieldData, stored func() (string, error)) (string, error) {
	if kind := data.Get("type").(string); kind != "" {
		return kind, nil
	}
	kind, err := stored()
	if fault.Is(err, fault.NotFound) {
		return "", v.typeRequired()
	}
	return kind, err
}

// typeRequired is the answer to a first write that does not say what it makes.
func (v vocabulary) typeRequired() error {
	return fault.Field("type", "is required for a new %s: %s", v.noun, v.types())
}

// fields derives the Vault fields. Two kinds may share an option's name only if
// they agree on its type: Vault has one field for both.
func (v vocabulary) fields() map[string]*framework.FieldSchema {
	out := map[string]*framework.FieldSchema{}
	for _, o := range slices.Concat(v.selectors, v.common) {
		out[o.Name] = v.schemaOf(o, "")
	}
	for _, kind := range slices.Sorted(maps.Keys(v.kinds)) {
		for _, o := range v.kinds[kind] {
			before, shared := out[o.Name]
			if !shared {
				out[o.Name] = v.schemaOf(o, kind)
				continue
			}
			if before.Type != fieldType(o.Type) || before.DisplayAttrs.Group == "" {
				panic(fmt.Sprintf("option %s of type %s clashes with another of that name", o.Name, kind))
			}
			before.DisplayAttrs.Group += ", " + kind
			before.Description += fmt.Sprintf(" For type %s: %s", kind, o.Help)
			before.DisplayAttrs.Sensitive = before.DisplayAttrs.Sensitive || o.Secret
		}
	}
	return out
}

// schemaOf derives one field. kind, when not empty, is the only type that has it.
func (v vocabulary) schemaOf(o option.Option, kind string) *framework.FieldSchema {
	help := o.Help
	if kind != "" {
		help = fmt.Sprintf("(type %s) %s", kind, help)
	}
	if o.Secret {
		help += " " + v.secrets
	}
	if o.Address {
		help += " " + followed(o.Type) + " it requires the secrets again."
	}
	if o.Immutable {
		help += " Cannot be changed later."
	}
	return &framework.FieldSchema{
		Type:         fieldType(o.Type),
		Default:      o.Default,
		Description:  help,
		DisplayAttrs: &framework.DisplayAttributes{Name: o.Name, Group: kind, Sensitive: o.Secret},
	}
}

// followed is what a secret would follow: an entry taken out of a list leads nowhere.
func followed(t option.Type) string {
	if t == option.List {
		return "Adding to"
	}
	return "Changing"
}

func fieldType(t option.Type) framework.FieldType {
	switch t {
	case option.String:
		return framework.TypeString
	case option.Int:
		return framework.TypeInt64
	case option.Bool:
		return framework.TypeBool
	case option.Duration:
		return framework.TypeDurationSecond
	case option.List:
		return framework.TypeCommaStringSlice
	case option.Lines:
		return framework.TypeStringSlice
	case option.Map:
		return framework.TypeKVPairs
	default:
		panic(fmt.Sprintf("option type %q has no Vault field type", t))
	}
}

// collect gathers what a request gives, and nothing it leaves out. An option of
// another type is refused: it would have no effect, and its writer believes it has.
func (v vocabulary) collect(kind string, data *framework.FieldData) (option.Values, secret.Map, error) {
	own, known := v.kinds[kind]
	if !known && v.kinds != nil {
		return nil, nil, fault.Field("type", "names no type of %s; there are: %s", v.noun, v.types())
	}
	set := slices.Concat(v.selectors, v.common, own)
	values, secrets := option.Values{}, secret.Map{}
	for _, name := range slices.Sorted(maps.Keys(data.Raw)) {
		if name == "name" || data.Raw[name] == nil { // JSON null: not given
			continue
		}
		o := set.Named(name)
		switch {
		case o == nil:
			return nil, nil, v.misplaced(name, kind)
		case o.Secret:
			secrets[name] = secret.New(data.Get(name).(string))
		default:
			values[name] = valueOf(data, name)
		}
	}
	return values, secrets, nil
}

// misplaced says of which types an option is.
func (v vocabulary) misplaced(name, kind string) error {
	var of []string
	for k, set := range v.kinds {
		if set.Named(name) != nil {
			of = append(of, k)
		}
	}
	if len(of) == 0 {
		return fault.Field(name, "has no meaning when a %s is written", v.noun)
	}
	slices.Sort(of)
	return fault.Field(name, "is an option of type %s; this %s is of type %s", strings.Join(of, " and "), v.noun, kind)
}

// valueOf gives a field's value in the Go form of its option.
func valueOf(data *framework.FieldData, name string) any {
	switch value := data.Get(name).(type) {
	case int: // a duration, in seconds
		return int64(value)
	default:
		return value
	}
}

// public gives the public values of a kind as they are in force, null where none is.
func (v vocabulary) public(kind string, values option.Values) map[string]any {
	set := slices.Concat(v.common, v.kinds[kind])
	values = set.WithDefaults(values)
	out := map[string]any{}
	for _, o := range set {
		if !o.Secret {
			out[o.Name] = values[o.Name]
		}
	}
	return out
}

// shown declares the answer of a read: every public option, whichever the type,
// none of them required.
func (v vocabulary) shown(more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	out := map[string]*framework.FieldSchema{}
	for name, field := range v.fields() {
		if !field.DisplayAttrs.Sensitive {
			out[name] = &framework.FieldSchema{Type: field.Type, Description: field.Description}
		}
	}
	maps.Copy(out, more)
	return out
}
