package kubernetes

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// open gives a connection and a target that it admits.
func open(conn rotator.Connection, text string) (*Connection, *target, error) {
	c, err := own(conn)
	if err != nil {
		return nil, nil, err
	}
	t, err := admitted(c.targets, text)
	return c, t, err
}

// Ready implements dependent.Restarter.
func (*ConnectionKind) Ready(ctx context.Context, conn rotator.Connection, text string) error {
	c, t, err := open(conn, text)
	if err != nil {
		return err
	}
	if t.name != "" {
		w := dependent.Workload{Kind: t.kinds[0], Namespace: t.namespace, Name: t.name}
		return c.ready(ctx, w, true)
	}
	for _, kind := range t.kinds {
		if err := c.require(ctx, right{namespace: t.namespace, kind: kind}, "list"); err != nil {
			return err
		}
	}
	found, err := c.matched(ctx, t)
	if err != nil {
		return err
	}
	// Who has a right to all of a kind need not be asked for each.
	byName := map[string]bool{}
	for _, w := range found {
		if _, asked := byName[w.Kind]; !asked {
			missing, err := c.missing(ctx, right{namespace: t.namespace, kind: w.Kind}, "get", "patch")
			if err != nil {
				return err
			}
			byName[w.Kind] = len(missing) > 0
		}
		if err := c.ready(ctx, w, byName[w.Kind]); err != nil {
			return err
		}
	}
	return nil
}

// ready tells why one workload could not be restarted.
func (c *Connection) ready(ctx context.Context, w dependent.Workload, ask bool) error {
	if ask {
		if err := c.require(ctx, right{namespace: w.Namespace, kind: w.Kind, name: w.Name}, "get", "patch"); err != nil {
			return err
		}
	}
	o, err := c.get(ctx, w.Namespace, w.Kind, w.Name)
	if err != nil {
		return err
	}
	return o.restartable()
}

// matched lists the workloads of a selector, of which there must be one.
func (c *Connection) matched(ctx context.Context, t *target) ([]dependent.Workload, error) {
	found, err := c.list(ctx, t)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, dependent.Gone(fault.New(fault.Target, "%s matches no workload: is there such a namespace, and do the objects themselves bear these labels (those of their pods do not count)?", t))
	}
	return found, nil
}

// Resolve implements dependent.Restarter.
func (*ConnectionKind) Resolve(ctx context.Context, conn rotator.Connection, text string) ([]dependent.Workload, error) {
	c, t, err := open(conn, text)
	if err != nil {
		return nil, err
	}
	if t.name == "" {
		return c.matched(ctx, t)
	}
	o, err := c.get(ctx, t.namespace, t.kinds[0], t.name)
	if err != nil {
		return nil, err
	}
	return []dependent.Workload{o.workload()}, nil
}
