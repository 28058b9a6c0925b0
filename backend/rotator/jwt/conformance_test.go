package jwt_test

import (
	"context"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// TestConforms runs the contract's own suite. A reader signs with the exported key and
// another library.
func TestConforms(t *testing.T) {
	for name, values := range map[string]option.Values{
		"RS256": {"algorithm": "RS256", "key_bits": 2048, "exportable": true},
		"ES256": {"algorithm": "ES256", "exportable": true},
		"EdDSA": {"algorithm": "EdDSA", "exportable": true},
	} {
		t.Run(name, func(t *testing.T) {
			rotatortest.Run(t, func(*testing.T) *rotatortest.Subject {
				return &rotatortest.Subject{
					Rotator: jwt.New(),
					Role:    &rotator.Role{Name: "app", Values: values},
					Honours: honours,
				}
			})
		})
	}
}

func honours(t *testing.T, live *rotator.LiveVersions, rendered map[string]any) bool {
	private, err := jwk.ParseKey([]byte(rendered["private_key"].(string)), jwk.WithPEM(true))
	require.NoError(t, err)
	require.NoError(t, private.Set(jwk.KeyIDKey, rendered["kid"]))
	alg, ok := jwa.LookupSignatureAlgorithm(rendered["algorithm"].(string))
	require.True(t, ok)
	claims, err := jwxjwt.NewBuilder().Subject("reader").Expiration(live.Now.Add(time.Minute)).Build()
	require.NoError(t, err)
	token, err := jwxjwt.Sign(claims, jwxjwt.WithKey(alg, private))
	require.NoError(t, err)

	answer, err := jwt.New().Use(context.Background(), live, jwt.VerifyRequest{Token: string(token)})
	require.NoError(t, err)
	verified := answer.(*jwt.Verified)

	answer, err = jwt.New().Use(context.Background(), live, jwt.KeySetRequest{})
	require.NoError(t, err)
	set, err := jwk.Parse(answer.(*jwt.Document).JSON)
	require.NoError(t, err)
	_, published := set.LookupKeyID(rendered["kid"].(string))
	require.Equal(t, published, verified.Active, "what is published is honoured, and nothing else: %s", verified.Reason)
	return published
}
