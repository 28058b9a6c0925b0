package postgresql

import (
	"context"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Plan implements rotator.Rotator. A role that takes over a user begins with it as
// it is; for that, Plan looks at the server.
func (*Rotator) Plan(ctx context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	o, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	isFirst := t.Current == nil && len(t.Others) == 0
	switch password := t.Role.Secrets[passwordKey]; {
	case isFirst && !password.Empty():
		return planImport(ctx, t, o, password)
	case isFirst && o.Username != "" && o.Strategy != inPlace:
		return nil, fault.New(fault.Conflict, "the password of %s is not known any more: write the role again", quoted(o.Username))
	}
	name, err := o.nextName(t)
	if err != nil {
		return nil, err
	}
	password, err := mintPassword(ctx, o.PasswordPolicy, t.Passwords)
	if err != nil {
		return nil, err
	}
	return candidate(name, password, object{Group: o.MemberOf, Strategy: o.objectStrategy()})
}

func candidate(name string, password secret.String, o object) (*rotator.Candidate, error) {
	raw, err := o.encode()
	if err != nil {
		return nil, err
	}
	return &rotator.Candidate{Identifier: name, Object: raw, Material: secret.Map{passwordKey: password}}, nil
}

// nextName is the user of the next version: a fresh one, the one, or the one of the
// two whose turn it is.
func (o *roleOptions) nextName(t *rotator.Target) (string, error) {
	switch o.Strategy {
	case inPlace:
		return o.Username, nil
	case alternate:
		if current := currentOf(t); current != nil && current.Identifier == o.Usernames[0] {
			return o.Usernames[1], nil
		}
		return o.Usernames[0], nil
	}
	return o.name(nameData{RoleName: t.Role.Name, Version: t.Version.Number, RotationID: t.Version.RotationID})
}

// currentOf is the version that readers get beside the target's, also when an
// emergency has ended it; nil for none.
func currentOf(t *rotator.Target) *rotation.Version {
	i := slices.IndexFunc(t.Others, func(v rotation.Version) bool { return v.State == rotation.Current })
	if i < 0 {
		return nil
	}
	return &t.Others[i]
}

func mintPassword(ctx context.Context, policy string, from rotator.PasswordPolicy) (secret.String, error) {
	if policy == "" {
		return secret.New(random(passwordAlphabet, passwordLength)), nil
	}
	if from == nil {
		return secret.String{}, fault.New(fault.Internal, "no source of password policies")
	}
	password, err := from.GeneratePasswordFromPolicy(ctx, policy)
	if err != nil {
		return secret.String{}, &fault.Error{Kind: fault.Invalid, Field: "password_policy", Message: "cannot be used: " + err.Error(), Err: err}
	}
	// Clients do not agree on how other characters are normalised (SASLprep or
	// its successors), so that a password may work with one and not with another.
	if password == "" || len(password) > maxPasswordBytes || strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r > '~' }) {
		return secret.String{}, fault.Field("password_policy", "must yield 1 to %d printable ASCII characters: clients differ in how they treat others", maxPasswordBytes)
	}
	return secret.New(password), nil
}

func passwordOf(material secret.Map) (secret.String, error) {
	password := material[passwordKey]
	if password.Empty() {
		return password, fault.New(fault.Conflict, "the version's password is no longer kept")
	}
	return password, nil
}

// Restorable implements rotator.Restorer.
func (*Rotator) Restorable(t *rotator.Target) string {
	o, err := objectOf(&t.Version)
	if err != nil {
		return err.Error()
	}
	if _, err := passwordOf(t.Material); err != nil {
		return err.Error()
	}
	if reason := laterVersion(t); o.Strategy == alternate && reason != "" {
		return reason
	}
	switch {
	case o.Group == "" && (o.standing() || len(o.Imported) > 0):
		return ""
	case o.Group == "":
		return customRestorable(t.Role)
	}
	connection, err := decodeConnection(t.Role.ConnectionValues)
	if err == nil {
		err = checkGroupName(o.Group, connection)
	}
	if err != nil {
		return "its group can no longer be given: " + err.Error()
	}
	return ""
}

// customRestorable says why a user without a group cannot be brought back: what it
// may do was given by the role's creation_statements alone.
func customRestorable(r *rotator.Role) string {
	options, err := decodeRole(r)
	if err != nil {
		return err.Error()
	}
	if len(options.CreationStatements) == 0 {
		return "it was made by creation_statements, which the role no longer has"
	}
	connection, err := decodeConnection(r.ConnectionValues)
	if err == nil {
		err = options.checkCustom(connection)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
