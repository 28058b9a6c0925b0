package jwt

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

const (
	maxItems       = 1000
	maxHeaderBytes = 256
	headersField   = "headers"
)

// sign makes a token of each item, on all processors.
func sign(ctx context.Context, r *rules, live *rotator.LiveVersions, request SignRequest) ([]Signed, error) {
	switch {
	case len(request.Items) == 0:
		return nil, fault.Field("batch_input", "has no items")
	case len(request.Items) > maxItems:
		return nil, fault.Field("batch_input", "has %d items: at most %d are signed at once", len(request.Items), maxItems)
	}
	k, err := signingKey(live)
	if err != nil {
		return nil, err
	}
	f, err := newForm(r, live, request)
	if err != nil {
		return nil, err
	}
	out := make([]Signed, len(request.Items))
	err = inParallel(ctx, len(out), func(i int) {
		out[i] = f.sign(k, &request.Items[i])
		out[i].KeyID, out[i].Version = k.kid, live.Current.Version.Number
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// signingKey is the current version's. What leaked signs no more: its tokens could
// not be told from the thief's.
func signingKey(live *rotator.LiveVersions) (*key, error) {
	if live.Current == nil {
		return nil, fault.New(fault.NotFound, "role %q is deleted: nothing is signed any more", live.Role.Name)
	}
	v := &live.Current.Version
	if v.Compromised || !v.KilledTime.IsZero() || !v.RetireBegun.IsZero() {
		return nil, fault.New(fault.Conflict, "the key of version %d was ended by an emergency and signs nothing: its replacement is being made", v.Number)
	}
	return readyKey(live.Current)
}

// newForm finds out what all tokens of a request have in common.
func newForm(r *rules, live *rotator.LiveVersions, request SignRequest) (*form, error) {
	f := &form{rules: r, now: live.Now, longest: r.TokenTTL.Std()}
	v := &live.Current.Version
	// The version stays for the grace it was made current with, whatever token_ttl
	// says since.
	if v.Grace > 0 {
		f.longest = min(f.longest, v.Grace.Std()-r.ClockSkew.Std())
	}
	if f.longest < time.Second {
		return nil, fault.New(fault.Conflict, "version %d became current with a grace period of %s, which a clock_skew of %s leaves nothing of: rotate first", v.Number, v.Grace, r.ClockSkew)
	}
	f.longest = f.longest.Truncate(time.Second)
	template, err := r.templateClaims(request.Populate)
	if err != nil {
		return nil, err
	}
	f.template = template
	return f, f.fillCommon()
}

// sign makes one token.
func (f *form) sign(k *key, item *SignItem) (out Signed) {
	payload, expire, err := f.fill(item)
	if err != nil {
		return Signed{Err: err}
	}
	signer, err := f.signer(k, item.Headers)
	if err != nil {
		return Signed{Err: err}
	}
	if len(payload) > maxClaimsBytes {
		return Signed{Err: fault.Field(claimsField, "have %d bytes as JSON: at most %d are signed", len(payload), maxClaimsBytes)}
	}
	token, err := signer.compact(payload)
	if err != nil {
		return Signed{Err: fmt.Errorf("sign a token: %w", err)}
	}
	if len(token) > maxTokenBytes {
		return Signed{Err: fault.Field(claimsField, "make a token of %d bytes: one may have %d", len(token), maxTokenBytes)}
	}
	return Signed{Token: token, ExpireTime: expire}
}

// signer is the key under the headers that the caller wants.
func (f *form) signer(k *key, given map[string]any) (*tokenSigner, error) {
	if len(given) == 0 {
		return k.tokens, nil
	}
	var refused []string
	headers := map[string]string{"typ": "JWT"}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		text, ok := given[name].(string)
		switch {
		case !f.headers[name] || slices.Contains(fixedHeaders, name):
			refused = append(refused, quoted(name))
		case !ok || text == "" || len(text) > maxHeaderBytes:
			return nil, fault.Field(headersField, "must have a text of 1 to %d bytes as %s", maxHeaderBytes, name)
		}
		headers[name] = text
	}
	if refused != nil {
		return nil, fault.Field(headersField, "%s not allowed by the role; its allowed_headers are %s", listed(refused), namesOrNone(f.AllowedHeaders))
	}
	return k.signerWith(headers)
}

// tokenSigner signs under one protected header.
type tokenSigner struct {
	jose.Signer
	// header is the header as go-jose encodes it, which is the same for every token.
	header atomic.Pointer[string]
}

func (k *key) signerWith(headers map[string]string) (*tokenSigner, error) {
	options := &jose.SignerOptions{}
	for name, value := range headers {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: k.algorithm.name, Key: jose.JSONWebKey{Key: k.private, KeyID: k.kid},
	}, options)
	if err != nil {
		return nil, fmt.Errorf("a signer for %s: %w", k.algorithm.name, err)
	}
	return &tokenSigner{Signer: signer}, nil
}

// compact makes a token in the compact form. go-jose encodes header and payload once
// more for that; from the second token on they are put together here.
func (s *tokenSigner) compact(payload []byte) (string, error) {
	jws, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	if header := s.header.Load(); header != nil {
		return joined(*header, payload, jws.Signatures[0].Signature), nil
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return "", err
	}
	header, _, _ := strings.Cut(token, ".")
	s.header.Store(&header)
	return token, nil
}

func joined(header string, payload, signature []byte) string {
	encoding := base64.RawURLEncoding
	out := make([]byte, 0, len(header)+2+encoding.EncodedLen(len(payload))+encoding.EncodedLen(len(signature)))
	out = append(append(out, header...), '.')
	out = append(encoding.AppendEncode(out, payload), '.')
	return string(encoding.AppendEncode(out, signature))
}

// inParallel does n things, as many at a time as there are processors, and waits for
// all that it began. Between two of them it looks whether anybody still waits.
func inParallel(ctx context.Context, n int, do func(i int)) error {
	var next atomic.Int64
	work := func() {
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			do(i)
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return ctx.Err()
}
