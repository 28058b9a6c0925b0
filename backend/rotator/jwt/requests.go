package jwt

import "time"

// SignRequest asks for tokens, one for each item. The answer is []Signed, in order.
type SignRequest struct {
	Items []SignItem
	// Populate fills the placeholders of a claims template with the caller's identity
	// and returns JSON. It fails for a caller without one.
	Populate func(template string) (string, error)
}

// SignItem is what one token is to say.
type SignItem struct {
	// Claims and Headers are JSON values; numbers are json.Number, float64 or integers.
	Claims  map[string]any
	Headers map[string]any
	// TTL is the token's life; 0 for the longest that the role allows.
	TTL time.Duration
}

// Signed is one token, or why there is none.
type Signed struct {
	Token      string
	KeyID      string
	Version    int
	ExpireTime time.Time
	Err        error
}

// VerifyRequest asks whether a token is good. The answer is *Verified.
type VerifyRequest struct {
	Token string
	// Audience, when not empty, must be among the token's.
	Audience string
}

// Verified says whether a token is good, and if not, why.
type Verified struct {
	Active bool
	// Claims are those of an active token only.
	Claims map[string]any
	// KeyID and Version are known once the token names a key of the role.
	KeyID   string
	Version int
	// Reason is one sentence, empty for an active token.
	Reason string
}

// KeySetRequest asks for the public keys (RFC 7517). The answer is *Document.
type KeySetRequest struct{}

// DiscoveryRequest asks for the role's OpenID discovery document. The answer is
// *Document.
type DiscoveryRequest struct {
	// KeySetURL is where verifiers fetch the keys.
	KeySetURL string
}

// Document is a JSON document for the public, and for how long it may be cached.
type Document struct {
	JSON   []byte
	MaxAge time.Duration
}
