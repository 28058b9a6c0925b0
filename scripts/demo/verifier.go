package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

// A verifier is a service that checks tokens. It keeps the public keys for as long as Cache-Control
// says, and does not fetch them again for a key that it does not know.
type verifier struct {
	address string
	keys    jwk.Set
	until   time.Time
	fetches int
}

// check tells whether a token is good, by the keys in the cache.
func (v *verifier) check(ctx context.Context, token string) error {
	if !time.Now().Before(v.until) {
		if err := v.fetch(ctx); err != nil {
			return fmt.Errorf("the verifier fetches the keys: %w", err)
		}
	}
	_, err := jwt.ParseString(token, jwt.WithKeySet(v.keys), jwt.WithAudience("crm"))
	return err
}

func (v *verifier) fetch(ctx context.Context) error {
	resp, err := get(ctx, v.address+"/v1/rotation/jwks/session")
	if err != nil {
		return err
	}
	if v.keys, err = jwk.Parse(resp.body); err != nil {
		return err
	}
	if resp.maxAge <= 0 {
		return errors.New("the keys come without a max-age")
	}
	v.until = time.Now().Add(resp.maxAge)
	v.fetches++
	return nil
}

// public is what anyone may fetch.
type public struct {
	status, cacheControl string
	maxAge               time.Duration
	body                 []byte
}

var maxAge = regexp.MustCompile(`max-age=(\d+)`)

// get fetches something without a token.
func get(ctx context.Context, url string) (public, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return public{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return public{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	p := public{status: resp.Status, cacheControl: resp.Header.Get("Cache-Control")}
	if p.body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20)); err != nil {
		return public{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return public{}, fmt.Errorf("%s: %s", url, resp.Status)
	}
	if found := maxAge.FindStringSubmatch(p.cacheControl); found != nil {
		p.maxAge, err = time.ParseDuration(found[1] + "s")
	}
	return p, err
}

// keysOnLines shows a key set with a key on each line.
func keysOnLines(body []byte) string {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil {
		return string(body)
	}
	lines := make([]string, len(set.Keys))
	for i, key := range set.Keys {
		lines[i] = "  " + string(key)
	}
	return "{\"keys\": [\n" + strings.Join(lines, ",\n") + "\n]}"
}
