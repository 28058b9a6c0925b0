package apikey

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// endsAlone implements ownerShared: OpenAI ends a service account's keys all together.
func (o *openAI) endsAlone(ctx context.Context, r reference) error {
	keys, err := o.keys(ctx)
	if err != nil {
		return err
	}
	for i := range keys {
		if k := &keys[i]; k.account() == r.Owner && k.ID != r.ID {
			return fault.New(fault.Target, "service account %s, which a person made, has further keys by now (%s): OpenAI ends them only all together. "+
				"Move those to an account of their own, or end the key by hand", r.Owner, k.ID)
		}
	}
	return nil
}
