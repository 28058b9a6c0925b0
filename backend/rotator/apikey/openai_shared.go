package apikey

import "context"

// endsWith implements ownerShared: OpenAI ends a service account's keys all together.
func (o *openAI) endsWith(ctx context.Context, r reference) (string, error) {
	keys, err := o.keys(ctx)
	if err != nil {
		return "", err
	}
	var others []string
	for i := range keys {
		if k := &keys[i]; k.account() == r.Owner && k.ID != r.ID {
			others = append(others, k.ID)
		}
	}
	return listed(others), nil
}
