package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// document is one of the manifest that operators take over.
type document struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Rules   []rule `yaml:"rules"`
	RoleRef struct {
		Kind string `yaml:"kind"`
		Name string `yaml:"name"`
	} `yaml:"roleRef"`
	Subjects []struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"subjects"`
}

// granted are the rules of a Role of the manifest that is bound to its service account.
func granted(t *testing.T, role string) []rule {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "kubernetes", "rbac.yaml"))
	require.NoError(t, err)
	var rules []rule
	var accounts, bindings []string
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	for {
		var d document
		err := decoder.Decode(&d)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch {
		case d.Kind == "ServiceAccount":
			accounts = append(accounts, d.Metadata.Namespace+"/"+d.Metadata.Name)
		case d.Kind == "RoleBinding" && d.RoleRef.Name == role:
			require.Equal(t, "Role", d.RoleRef.Kind)
			for _, s := range d.Subjects {
				bindings = append(bindings, s.Namespace+"/"+s.Name)
			}
		case d.Kind == "Role" && d.Metadata.Name == role:
			for _, r := range d.Rules {
				r.Namespace = d.Metadata.Namespace
				rules = append(rules, r)
			}
		}
	}
	require.Len(t, accounts, 1)
	require.Equal(t, accounts, bindings)
	return rules
}

// follow does all that becomes of a target in a rotation.
func follow(ctx context.Context, k *ConnectionKind, conn rotator.Connection, target, id string) error {
	if err := k.Ready(ctx, conn, target); err != nil {
		return err
	}
	found, err := k.Resolve(ctx, conn, target)
	if err != nil {
		return err
	}
	for _, w := range found {
		if err := k.Restart(ctx, conn, w, order(id)); err != nil {
			return err
		}
		if _, err := k.Look(ctx, conn, w); err != nil {
			return err
		}
	}
	return nil
}

// The manifest in deploy/ grants what is needed, and nothing else.
func TestManifestGrantsTheLeast(t *testing.T) {
	t.Parallel()
	for role, targets := range map[string][]string{
		"vault-rotation":           {"default/deployment/api", "default/deployment/web"},
		"vault-rotation-selectors": {"default/all/app in (api,web)"},
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			for _, name := range []string{"api", "web"} {
				for _, kind := range kinds {
					s.add("default", kind, name, map[string]string{"app": name}, nil)
				}
			}
			k, conn := s.open(t)
			all := granted(t, role)
			s.set(func(s *server) { s.rules = all })
			for _, target := range targets {
				require.NoError(t, follow(t.Context(), k, conn, target, "all"))
			}
			without := 0
			for i, r := range all {
				for _, list := range []func(*rule) *[]string{
					func(r *rule) *[]string { return &r.Verbs }, func(r *rule) *[]string { return &r.Resources }, func(r *rule) *[]string { return &r.Names },
				} {
					for _, entry := range *list(&r) {
						less := slices.Clone(all)
						*list(&less[i]) = slices.DeleteFunc(slices.Clone(*list(&r)), func(e string) bool { return e == entry })
						s.set(func(s *server) { s.rules = less })
						var failed error
						for _, target := range targets {
							if err := follow(t.Context(), k, conn, target, "without-"+entry); err != nil {
								failed = err
							}
						}
						requireFault(t, failed, fault.Target, "the service account may not")
						without++
					}
				}
			}
			require.GreaterOrEqual(t, without, 5)
		})
	}
}
