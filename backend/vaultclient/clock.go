package vaultclient

import "time"

// now is the injected clock, else the real one, by which Vault counts the life of a token.
func (o *Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}
