package jwt

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var b64 = base64.RawURLEncoding.EncodeToString

func good(change map[string]any) map[string]any {
	out := map[string]any{"iat": at.Unix(), "exp": at.Unix() + 60, "sub": "me"}
	for name, value := range change {
		out[name] = value
		if value == nil {
			delete(out, name)
		}
	}
	return out
}

func inactive(t *testing.T, f *fixture, token, reason string) {
	t.Helper()
	out := f.verify(t, token)
	require.False(t, out.Active)
	require.Equal(t, reason, out.Reason)
	require.Nil(t, out.Claims)
}

func TestVerify(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "ES256"})
	out := f.verify(t, forge(t, f.keys[0], nil, good(map[string]any{"n": json.Number("12345678901234567890")})))
	require.Equal(t, &Verified{
		Active: true, KeyID: f.keys[0].kid, Version: 1,
		Claims: map[string]any{"iat": json.Number("1772366400"), "exp": json.Number("1772366460"), "sub": "me", "n": json.Number("12345678901234567890")},
	}, out)
}

func TestVerifyLooksAtTheClaims(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "EdDSA"})
	now := at.Unix()
	for _, c := range []struct {
		change map[string]any
		reason string
	}{
		{map[string]any{"exp": nil}, "the token has no exp"},
		{map[string]any{"exp": "soon"}, "the token's exp is not a time in seconds since 1970"},
		{map[string]any{"exp": json.Number("1e400")}, "the token's claims are not a JSON object"}, // of numbers that programs can read
		{map[string]any{"exp": now - 59}, ""},                                                     // the clock skew
		{map[string]any{"exp": now - 60}, "the token ended at 2026-03-01T11:59:00Z"},
		{map[string]any{"nbf": now + 60}, ""},
		{map[string]any{"nbf": now + 61, "exp": now + 100}, "the token is not valid before 2026-03-01T12:01:01Z"},
		{map[string]any{"iat": now + 60}, ""},
		{map[string]any{"iat": now + 61}, "the token was made in the future, at 2026-03-01T12:01:01Z"},
		{map[string]any{"iat": nil}, ""},
		{map[string]any{"iat": []any{}}, "the token's iat is not a time in seconds since 1970"},
		{map[string]any{"nbf": json.Number("1772366400.25")}, ""},
	} {
		token := forge(t, f.keys[0], nil, good(c.change))
		if c.reason == "" {
			require.True(t, f.verify(t, token).Active, c.change)
			continue
		}
		inactive(t, f, token, c.reason)
	}
	for _, text := range []string{"[]", "null", "5", `"x"`, "", "{", "{} {}", "\xff"} {
		inactive(t, f, forge(t, f.keys[0], nil, text), "the token's claims are not a JSON object")
	}
	inactive(t, f, forge(t, f.keys[0], nil, strings.Repeat(`{"a":`, 2000)), "the token's claims are not a JSON object")
	inactive(t, f, forge(t, f.keys[0], nil, strings.Repeat(`[`, 11000)), "the token's claims are not a JSON object")
	// Of claims that are there twice the last one counts (RFC 7519, section 4).
	inactive(t, f, forge(t, f.keys[0], nil, fmt.Sprintf(`{"exp":%d,"exp":1}`, now+60)), "the token ended at 1970-01-01T00:00:01Z")
	inactive(t, f, forge(t, f.keys[0], nil, fmt.Sprintf(`{"EXP":%d}`, now+60)), "the token has no exp")
}

func TestVerifyLooksAtIssuerAndAudience(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "EdDSA", "issuer": "https://issuer.example"})
	for _, iss := range []any{nil, "https://evil.example", 5, map[string]any{}} {
		inactive(t, f, forge(t, f.keys[0], nil, good(map[string]any{"iss": iss})), "the token's iss is not the role's issuer")
	}
	for _, c := range []struct {
		aud  any
		want bool
	}{
		{"api", true}, {[]any{"other", "api"}, true}, {nil, false}, {"other", false}, {[]any{}, false}, {[]any{5, map[string]any{}}, false}, {map[string]any{"api": 1}, false}, {"API", false},
	} {
		token := forge(t, f.keys[0], nil, good(map[string]any{"iss": "https://issuer.example", "aud": c.aud}))
		answer, err := f.use(VerifyRequest{Token: token, Audience: "api"})
		require.NoError(t, err)
		out := answer.(*Verified)
		require.Equal(t, c.want, out.Active, c.aud)
		if !c.want {
			require.Equal(t, `the token is not for the audience "api"`, out.Reason)
		}
		require.True(t, f.verify(t, token).Active)
	}
}

func TestVerifyNamesWhatBecameOfAKey(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "EdDSA"})
	for range 3 {
		f.add(t, rotation.Current)
	}
	f.add(t, rotation.Standby)
	for range 2 {
		f.add(t, rotation.Pending)
	}
	token := func(version int) string { return forge(t, f.keys[version-1], nil, good(nil)) }
	reason := func(version int, what string) {
		t.Helper()
		out := f.verify(t, token(version))
		require.Equal(t, &Verified{KeyID: f.keys[version-1].kid, Version: version, Reason: "the token's key " + f.keys[version-1].kid + " " + what}, out)
	}
	f.end(1, func(v *rotation.Version) { v.State = rotation.Retired })
	f.end(2, func(v *rotation.Version) { v.State, v.Compromised = rotation.Disabled, true })
	f.version(3).Compromised = true
	f.end(6, func(*rotation.Version) {})
	f.end(7, func(v *rotation.Version) { v.State = rotation.Discarded })
	reason(1, "was retired")
	reason(2, "was compromised and is revoked")
	reason(3, "was compromised and is revoked")
	reason(6, "is not in use yet")
	reason(7, "was given up before it was used")
	for _, version := range []int{4, 5} {
		require.True(t, f.verify(t, token(version)).Active, "current and standby")
	}
	f.version(4).KilledTime = at
	reason(4, "was retired")

	stranger := newFixture(t, option.Values{"algorithm": "ES256"})
	inactive(t, f, forge(t, stranger.keys[0], nil, good(nil)), fmt.Sprintf("the key %q is not one of this role", stranger.keys[0].kid))
}

// TestVerifyRefusesForgeries are the attacks of RFC 8725, and the likes of them.
func TestVerifyRefusesForgeries(t *testing.T) {
	for _, name := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run(name, func(t *testing.T) { refusesForgeries(t, newFixture(t, option.Values{"algorithm": name})) })
	}
}

func refusesForgeries(t *testing.T, f *fixture) {
	old := f.keys[0]
	k := f.add(t, rotation.Current)
	token := forge(t, k, nil, good(nil))
	require.True(t, f.verify(t, token).Active)
	parts := strings.Split(token, ".")
	claims := parts[1]
	headed := func(header string) string { return b64([]byte(header)) + "." + claims }
	wrong := "the token's signature is not that of the key " + k.kid

	for _, alg := range []string{"none", "None", "HS256", "RS512", ""} {
		reason := fmt.Sprintf("the token says alg %q, but its key signs with %s alone", alg, k.algorithm.name)
		inactive(t, f, headed(`{"alg":"`+alg+`","kid":"`+k.kid+`"}`)+".", reason)
		inactive(t, f, headed(`{"alg":"`+alg+`","kid":"`+k.kid+`"}`)+"."+parts[2], reason)
	}
	public, err := encodePublic(k.public.Key)
	require.NoError(t, err)
	confused := headed(`{"alg":"HS256","kid":"` + k.kid + `"}`)
	mac := hmac.New(sha256.New, []byte(public))
	mac.Write([]byte(confused))
	inactive(t, f, confused+"."+b64(mac.Sum(nil)), `the token says alg "HS256", but its key signs with `+string(k.algorithm.name)+" alone")

	own := `{"alg":"` + string(k.algorithm.name) + `","kid":"` + k.kid + `",`
	for _, name := range []string{"jwk", "jku", "x5u", "x5c"} {
		inactive(t, f, headed(own+`"`+name+`":{}}`)+"."+parts[2], "the token brings a key of its own ("+name+"): only those of the role count")
	}
	for _, name := range []string{"crit", "b64", "zip", "enc"} {
		inactive(t, f, headed(own+`"`+name+`":["exp"]}`)+"."+parts[2], "the token has the header parameter "+name+", which is not supported")
	}
	for _, header := range []string{`{"alg":"` + string(k.algorithm.name) + `"}`, `{"kid":5}`, `{"kid":null}`, `{"KID":"` + k.kid + `"}`} {
		inactive(t, f, headed(header)+"."+parts[2], "the token has no kid, so that its key is not known")
	}
	// The signature of one key under the name of another, and headers nobody signed.
	inactive(t, f, headed(`{"alg":"`+string(k.algorithm.name)+`","kid":"`+old.kid+`"}`)+"."+parts[2], "the token's signature is not that of the key "+old.kid)
	inactive(t, f, headed(own+`"typ":"x"}`)+"."+parts[2], wrong)
	inactive(t, f, headed(own+`"kid":"`+k.kid+`"}`)+"."+parts[2], wrong)
	inactive(t, f, parts[0]+"."+b64([]byte(`{"exp":9999999999,"sub":"admin"}`))+"."+parts[2], wrong)
	inactive(t, f, parts[0]+"."+claims+".", wrong)
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	require.NoError(t, err)
	for _, forged := range [][]byte{signature[:len(signature)-1], append(signature[:len(signature):len(signature)], 0), append([]byte{0}, signature...), make([]byte, len(signature))} {
		inactive(t, f, parts[0]+"."+claims+"."+b64(forged), wrong)
	}
	for i := range signature {
		flipped := append([]byte(nil), signature...)
		flipped[i] ^= 1
		inactive(t, f, parts[0]+"."+claims+"."+b64(flipped), wrong)
	}
}

// TestEveryCharacterCounts changes a token in one place: there is no second form of it.
func TestEveryCharacterCounts(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "ES256"})
	token := forge(t, f.keys[0], nil, good(nil))
	for i := range token {
		for _, c := range []byte("AB_\n") {
			if token[i] == c {
				continue
			}
			changed := token[:i] + string(c) + token[i+1:]
			answer, err := f.use(VerifyRequest{Token: changed})
			if err == nil {
				require.False(t, answer.(*Verified).Active, changed)
			}
		}
	}
}

// TestSignatureInDER is how a careless signer writes one of an elliptic curve.
func TestSignatureInDER(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "ES256"})
	token := forge(t, f.keys[0], nil, good(nil))
	message := token[:strings.LastIndexByte(token, '.')]
	digest := sha256.Sum256([]byte(message))
	der, err := ecdsa.SignASN1(rand.Reader, f.keys[0].private.(*ecdsa.PrivateKey), digest[:])
	require.NoError(t, err)
	inactive(t, f, message+"."+b64(der), "the token's signature is not that of the key "+f.keys[0].kid)
}

func TestWhatIsNoToken(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "EdDSA"})
	token := forge(t, f.keys[0], nil, good(nil))
	const (
		parts    = "token: is not a compact JWS (RFC 7515), which has three parts with a dot between them"
		encoding = "token: is not a compact JWS (RFC 7515), which has base64url without padding in each part"
		header   = "token: is not a compact JWS (RFC 7515), which has a JSON object as its header"
	)
	for _, c := range []struct{ token, want string }{
		{"", parts},
		{"swordfish", parts},
		{"a.b", parts},
		{"a.b.c.d.e", parts},
		{`{"payload":"","signatures":[]}`, parts},
		{token + "=", encoding},
		{token + "\n", encoding},
		{" " + token, encoding},
		{"a+/b." + token, parts},
		{"..", header},
		{b64([]byte("[]")) + "..", header},
		{b64([]byte("null")) + "..", header},
		{b64([]byte(strings.Repeat("[", 11000))) + "..", header},
		{strings.Repeat("x", 100_000), "token: is 100000 bytes: a token has at most 16384"},
	} {
		_, err := f.use(VerifyRequest{Token: c.token})
		require.EqualError(t, err, c.want)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
}

// TestAKeyOutlivesItsTokens is the kind's promise: the last token that a version signed
// is honoured to its end on the slowest clock, and its key may end right after.
func TestAKeyOutlivesItsTokens(t *testing.T) {
	f := newFixture(t, every)
	out := f.sign(SignItem{})
	require.NoError(t, out.Err)
	f.role.Grace = 61 * time.Minute // the least that CheckRole admits
	require.NoError(t, New().CheckRole(nil, f.role))
	f.live.Now = at.Add(f.role.Grace - time.Second)
	require.True(t, f.verify(t, out.Token).Active)
	f.live.Now = at.Add(f.role.Grace)
	require.False(t, f.verify(t, out.Token).Active)
}

func FuzzVerify(f *testing.F) {
	role := newFixture(f, option.Values{"algorithm": "EdDSA"})
	token := forge(f, role.keys[0], nil, good(nil))
	for _, seed := range []string{token, token + "=", "..", "a.b.c", b64([]byte(`{"alg":"none","kid":"x"}`)) + "..", forge(f, role.keys[0], map[string]string{"typ": "x"}, "[]")} {
		f.Add(seed)
	}
	made := map[string]bool{token: true}
	f.Fuzz(func(t *testing.T, text string) {
		answer, err := role.use(VerifyRequest{Token: text})
		if err != nil {
			require.Equal(t, fault.Invalid, fault.KindOf(err))
			return
		}
		out := answer.(*Verified)
		require.Equal(t, made[text], out.Active, "nothing but what was signed is good")
		require.Equal(t, out.Active, out.Reason == "")
	})
}
