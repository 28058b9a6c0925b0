// Package faketransit imitates a Vault with one transit mount over real HTTP, with Vault's own
// codec, for tests that count requests, lose their answers, and let time pass. What a real
// Vault does is tried in tests/ and beside the client.
package faketransit

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/helper/keysutil"
)

// Token is what it accepts.
const Token = "hvs.fake-transit-7d1a4c"

// Server is the fake.
type Server struct {
	*httptest.Server
	mu   sync.Mutex
	keys map[string]*keysutil.Policy
	// rotations counts by key those that a client asked for.
	rotations map[string]int
	auto      int64
}

// New starts one; Close ends it.
func New() *Server {
	s := &Server{keys: map[string]*keysutil.Policy{}, rotations: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

// Create makes a key with so many versions.
func (s *Server) Create(name string, versions int, derived bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := keysutil.NewPolicy(keysutil.PolicyConfig{Name: name, Type: keysutil.KeyType_AES256_GCM96, Derived: derived, KDF: keysutil.Kdf_hkdf_sha256})
	p.Keys, p.MinDecryptionVersion = map[string]keysutil.KeyEntry{}, 1
	s.keys[name] = p
	for range versions {
		add(p)
	}
}

// Delete removes a key.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, name)
}

// Rotate is somebody else's rotation.
func (s *Server) Rotate(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(s.keys[name])
}

// AutoRotate sets the auto_rotate_period of all keys, in seconds.
func (s *Server) AutoRotate(seconds int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auto = seconds
}

// SetMinDecryption is what somebody else configures.
func (s *Server) SetMinDecryption(name string, version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].MinDecryptionVersion = version
}

// State gives the latest version and the earliest that decrypts, and how often a client
// rotated the key.
func (s *Server) State(name string) (latest, least, rotations int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[name].LatestVersion, s.keys[name].MinDecryptionVersion, s.rotations[name]
}

// Encrypt is what an application asks for.
func (s *Server) Encrypt(name, plain string, context []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := s.keys[name].EncryptWithFactory(0, context, nil, base64.StdEncoding.EncodeToString([]byte(plain)))
	if err != nil {
		panic(err)
	}
	return text
}

// Decrypt is what an application asks for.
func (s *Server) Decrypt(name, ciphertext string, context []byte) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := s.keys[name].DecryptWithFactory(context, nil, ciphertext)
	if err != nil {
		return "", err
	}
	plain, err := base64.StdEncoding.DecodeString(text)
	return string(plain), err
}

func add(p *keysutil.Policy) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		panic(err)
	}
	p.LatestVersion++
	p.Keys[strconv.Itoa(p.LatestVersion)] = keysutil.KeyEntry{Key: raw, HMACKey: raw}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Vault-Token") != Token {
		refuse(w, http.StatusForbidden, "permission denied", "invalid token")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	switch {
	case path == "auth/token/lookup-self":
		answer(w, map[string]any{"policies": []string{"test"}, "ttl": 0})
	case path == "sys/capabilities-self":
		var in struct{ Paths []string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		out := map[string]any{}
		for _, p := range in.Paths {
			out[p] = []string{"root"}
		}
		answer(w, out)
	case strings.HasPrefix(path, "sys/internal/ui/mounts/transit/"):
		answer(w, map[string]any{"path": "transit/", "type": "transit"})
	case strings.HasPrefix(path, "transit/"):
		s.transit(w, r, strings.Split(strings.TrimPrefix(path, "transit/"), "/"))
	default:
		refuse(w, http.StatusForbidden, "preflight capability check returned 403")
	}
}

func (s *Server) transit(w http.ResponseWriter, r *http.Request, path []string) {
	var in struct {
		MinDecryption int         `json:"min_decryption_version"`
		Batch         []batchItem `json:"batch_input"`
	}
	if r.Method == http.MethodPost {
		_ = json.NewDecoder(r.Body).Decode(&in)
	}
	p := s.keys[path[1]]
	switch verb := strings.Join(append(path[:1:1], path[2:]...), "/"); {
	case p == nil && r.Method == http.MethodGet:
		refuse(w, http.StatusNotFound)
	case p == nil:
		refuse(w, http.StatusBadRequest, "encryption key not found")
	case verb == "keys":
		answer(w, map[string]any{
			"type": p.Type.String(), "latest_version": p.LatestVersion, "min_decryption_version": p.MinDecryptionVersion,
			"derived": p.Derived, "supports_encryption": true, "supports_decryption": true, "auto_rotate_period": s.auto,
		})
	case verb == "keys/rotate":
		add(p)
		s.rotations[path[1]]++
		w.WriteHeader(http.StatusNoContent)
	case verb == "keys/config" && in.MinDecryption > p.LatestVersion:
		refuse(w, http.StatusBadRequest, "cannot set min decryption version")
	case verb == "keys/config":
		p.MinDecryptionVersion = in.MinDecryption
		w.WriteHeader(http.StatusNoContent)
	default:
		results := make([]map[string]any, len(in.Batch))
		for i, item := range in.Batch {
			results[i] = item.do(p, verb)
		}
		answer(w, map[string]any{"batch_results": results})
	}
}

type batchItem struct {
	Ciphertext     string `json:"ciphertext"`
	Plaintext      string `json:"plaintext"`
	Context        []byte `json:"context"`
	AssociatedData string `json:"associated_data"`
	KeyVersion     int    `json:"key_version"`
}

// associated is what the codec takes associated data from.
type associated string

// GetAssociatedData implements keysutil.AssociatedDataFactory.
func (a associated) GetAssociatedData() ([]byte, error) {
	return base64.StdEncoding.DecodeString(string(a))
}

var errVerb = errors.New("unsupported path")

func (item batchItem) do(p *keysutil.Policy, verb string) map[string]any {
	var err error
	plain, text := item.Plaintext, ""
	var factories []any
	if verb != "rewrap" && item.AssociatedData != "" { // which rewrap does not heed
		factories = append(factories, associated(item.AssociatedData))
	}
	switch verb {
	case "decrypt", "rewrap":
		plain, err = p.DecryptWithFactory(item.Context, nil, item.Ciphertext, factories...)
	case "encrypt":
	default:
		err = errVerb
	}
	if err == nil && verb != "decrypt" {
		text, err = p.EncryptWithFactory(item.KeyVersion, item.Context, nil, plain, factories...)
		plain = ""
	}
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return map[string]any{"ciphertext": text, "plaintext": plain}
}

func answer(w http.ResponseWriter, data any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

func refuse(w http.ResponseWriter, status int, errs ...string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": append([]string{}, errs...)})
}
