package jwt

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// keySet is the role's JSON Web Key Set (RFC 7517): the published keys, by ascending
// version, so that the same keys make the same bytes. It is made of public halves
// alone; the private ones have no way in.
func keySet(r *rules, live *rotator.LiveVersions) (*Document, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}} // none is an empty list, not null
	for i := range live.All {
		if !published(&live.All[i].Version) {
			continue
		}
		k, err := readyKey(&live.All[i])
		if err != nil {
			return nil, err
		}
		if !k.public.IsPublic() {
			return nil, fmt.Errorf("the entry of version %d is no public key", live.All[i].Version.Number)
		}
		set.Keys = append(set.Keys, k.public)
	}
	return document(r, live, set)
}

// discovery is the part of OpenID Connect Discovery 1.0, section 3, that verifiers
// need. There is no authorization endpoint to name: nobody logs in here.
func discovery(r *rules, live *rotator.LiveVersions, request DiscoveryRequest) (*Document, error) {
	if r.Issuer == "" {
		return nil, fault.New(fault.NotFound, "role %q has no issuer: set it to the URL under which verifiers find this document", live.Role.Name)
	}
	if request.KeySetURL == "" {
		return nil, fault.New(fault.NotFound, "the address of the keys is not known: set external_url in config")
	}
	names := []string{r.Algorithm}
	for i := range live.All {
		if k, ok := live.All[i].Ready.(*key); ok && published(&live.All[i].Version) {
			names = append(names, string(k.algorithm.name))
		}
	}
	slices.Sort(names)
	return document(r, live, struct {
		Issuer        string   `json:"issuer"`
		KeySetURL     string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{r.Issuer, request.KeySetURL, []string{"id_token"}, []string{"public"}, slices.Compact(names)})
}

func document(r *rules, live *rotator.LiveVersions, content any) (*Document, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode a document: %w", err)
	}
	life := r.cacheLife(r.role.Interval)
	if live.Ahead > 0 { // a longer announce_period counts once the journal has it
		life = min(life, live.Ahead/2)
	}
	return &Document{JSON: raw, MaxAge: life.Truncate(time.Second)}, nil
}
