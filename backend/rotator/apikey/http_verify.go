package apikey

import (
	"context"
	"fmt"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// verify implements provider.
func (h *httpProvider) verify(ctx context.Context, key secret.String) (string, error) {
	a, err := h.prove(ctx, key)
	switch {
	case err != nil:
		return "", err
	case h.definition.Verify.succeeded(a):
		return fmt.Sprint(a.Status), nil
	}
	return fmt.Sprintf("%d, valid but forbidden", a.Status), nil
}

// prove makes the call of verify. Its answer is one that an accepted key gets.
func (h *httpProvider) prove(ctx context.Context, key secret.String) (*answer, error) {
	if err := checkKeyText(key); err != nil {
		return nil, err
	}
	v := h.definition.Verify
	a, err := h.do(ctx, attempt{
		caller: h.prover, action: "verify a key", spec: &v.callSpec, auth: h.definition.Key, secrets: secret.Map{keyValue: key},
	})
	switch {
	case err != nil:
		return nil, err
	case v.succeeded(a):
		return a, v.State.prove(a)
	// A gateway's page must not pass for the API's word, neither for a key nor against it.
	case slices.Contains(v.Forbidden, a.Status) && a.own():
		return a, nil
	case h.prover.refuses(a.Status, a.declined), a.busy():
		return nil, a.failed()
	case a.own():
		return nil, a.nothing()
	}
	return nil, a.foreign()
}

// prove reads what a success says of the key. What it cannot read proves nothing.
func (s *stateSpec) prove(a *answer) error {
	if s == nil {
		return nil
	}
	document, err := decodeAnswer(a.Body)
	if err != nil {
		return a.foreign()
	}
	value := s.at.in(document)
	text, _ := plain(value)
	switch {
	case value == nil:
		return a.foreign()
	case slices.Contains(s.Dead, text):
		return fault.New(fault.AuthFailed, "%s: the key is refused (it is %q)", a.request.Action, a.request.Text(text))
	case len(s.Alive) > 0 && !slices.Contains(s.Alive, text):
		return fault.New(fault.Unreachable, "%s: the answer proves nothing of the key: it is %q, which the definition does not know", a.request.Action, a.request.Text(text))
	}
	return nil
}

// identify implements provider for an API whose answer to verify names the key.
func (h *httpProvider) identify(ctx context.Context, key secret.String, id string) (reference, error) {
	a, err := h.prove(ctx, key)
	if err != nil {
		return reference{}, err
	}
	document, err := decodeAnswer(a.Body)
	if err != nil {
		return reference{}, a.unclear()
	}
	actual, ok := identifier(h.definition.Verify.id.in(document))
	switch {
	case !ok || betrays(actual, key):
		return reference{}, fault.New(fault.Target, "%s: the answer has no id of the key that can be used (status %d)", a.request.Action, a.Status)
	case id != "" && id != actual:
		return reference{}, fault.Field("key_id", "is the id of another key: %s says otherwise of this one", h.title())
	}
	return reference{ID: actual}, nil
}
