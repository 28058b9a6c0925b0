package encryption

// Texts of requests and answers that hold bytes are in base64, as callers send and get
// them. Each item is answered for itself, in order.

// EncryptRequest asks for ciphertexts. The answer is []Encrypted.
type EncryptRequest struct{ Items []EncryptItem }

// EncryptItem is what one ciphertext is made of.
type EncryptItem struct {
	Plaintext, Context, AssociatedData string
	// KeyVersion is 0, or the current version.
	KeyVersion int
}

// Encrypted is one ciphertext, or why there is none.
type Encrypted struct {
	Ciphertext string
	KeyVersion int
	Err        error
}

// DecryptRequest asks for plaintexts. The answer is []Decrypted.
type DecryptRequest struct{ Items []DecryptItem }

// DecryptItem is one ciphertext, and what it was made with beside the key.
type DecryptItem struct {
	Ciphertext, Context, AssociatedData string
}

// Decrypted is one plaintext, or why there is none.
type Decrypted struct {
	Plaintext string
	Err       error
}

// RewrapRequest asks for ciphertexts of the current version in the place of others.
// The answer is []Encrypted.
type RewrapRequest struct{ Items []RewrapItem }

// RewrapItem is one ciphertext, and the version that is to encrypt.
type RewrapItem struct {
	DecryptItem
	KeyVersion int
}

// DataKeyRequest asks for a random key and its ciphertext. The answer is *DataKey.
type DataKeyRequest struct {
	Context, AssociatedData string
	KeyVersion              int
	// Bits is 128, 256 or 512.
	Bits int
	// WrappedOnly leaves the plaintext out.
	WrappedOnly bool
}

// DataKey is a key for the caller's own use. To decrypt its ciphertext gives it again.
type DataKey struct {
	Ciphertext, Plaintext string
	KeyVersion            int
}
