package rotationsecrets

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// mount is a backend over storage in memory, with the in-memory kind of secret.
type mount struct {
	t       *testing.T
	backend *Backend
	storage logical.Storage
	memory  *rotatortest.Memory
	// others are further kinds of secret.
	others []rotator.Rotator
}

func newMount(t *testing.T) *mount {
	t.Helper()
	m := &mount{t: t, storage: &logical.InmemStorage{}, memory: rotatortest.NewMemory()}
	m.start(&logical.StaticSystemView{})
	return m
}

func (m *mount) start(view logical.SystemView) {
	t := m.t
	t.Helper()
	m.backend = m.assemble(view)
	require.NoError(t, m.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}))
}

// on is the same mount on another node of the cluster.
func (m *mount) on(view *logical.StaticSystemView) *mount {
	return &mount{t: m.t, storage: m.storage, memory: m.memory, others: m.others, backend: m.assemble(view)}
}

func (m *mount) assemble(view logical.SystemView) *Backend {
	m.t.Helper()
	b, err := assemble(m.t.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: view, StorageView: m.storage,
	}, kinds{rotators: append([]rotator.Rotator{m.memory}, m.others...), connections: []rotator.ConnectionKind{rotatortest.MemoryConnection{World: m.memory.World}}})
	require.NoError(m.t, err)
	m.t.Cleanup(func() { b.Cleanup(context.Background()) })
	return b
}

func (m *mount) request(op logical.Operation, path string, data map[string]any) *logical.Request {
	return &logical.Request{
		Operation: op, Path: path, Data: data, Storage: m.storage,
		EntityID: "entity-1", DisplayName: "alice", ClientTokenAccessor: "accessor-1",
	}
}

func (m *mount) handle(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	return m.backend.HandleRequest(m.t.Context(), m.request(op, path, data))
}

// must answers a request that succeeds, and holds the answer against its schema.
func (m *mount) must(op logical.Operation, path string, data map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.handle(op, path, data)
	require.NoError(m.t, err, "%s %s", op, path)
	require.NotNil(m.t, resp, "%s %s", op, path)
	require.NoError(m.t, resp.Error(), "%s %s", op, path)
	declared := m.backend.Route(path).Operations[op].Properties().Responses[http.StatusOK]
	require.Len(m.t, declared, 1)
	schema.ValidateResponse(m.t, &declared[0], resp, true)
	return resp
}

// refuses wants a 400 that begins with a sentence.
func (m *mount) refuses(op logical.Operation, path string, data map[string]any, sentence string) string {
	m.t.Helper()
	resp, err := m.handle(op, path, data)
	status, got := statusOf(m.t, op, resp, err)
	require.Equal(m.t, http.StatusBadRequest, status, got)
	require.True(m.t, strings.HasPrefix(got, sentence), "want %q, got %q", sentence, got)
	return got
}

func (m *mount) fails(status int, op logical.Operation, path string, data map[string]any) string {
	m.t.Helper()
	resp, err := m.handle(op, path, data)
	got, sentence := statusOf(m.t, op, resp, err)
	require.Equal(m.t, status, got, sentence)
	return sentence
}

func (m *mount) answers404(op logical.Operation, path string, data map[string]any) {
	m.t.Helper()
	m.fails(http.StatusNotFound, op, path, data)
}

// adminPassword is a canary: no answer may hold it.
const adminPassword = "s3cret-admin"

func (m *mount) connection() {
	m.t.Helper()
	m.must(logical.CreateOperation, "connections/main", map[string]any{"type": "memory", "address": "here", "password": adminPassword})
}

func (m *mount) role() *logical.Response {
	m.t.Helper()
	m.connection()
	return m.must(logical.CreateOperation, "roles/app", map[string]any{"type": "memory", "connection": "main", "rotation_period": "30d", "grace_period": "1h"})
}

// release is what the factory makes, with every kind of this release.
func release(t *testing.T) *Backend {
	t.Helper()
	b, err := Factory(t.Context(), &logical.BackendConfig{
		System:      &logical.StaticSystemView{PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.0"}},
		StorageView: &logical.InmemStorage{},
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.Cleanup(t.Context()) })
	require.IsType(t, &Backend{}, b)
	return b.(*Backend)
}

func TestFactoryAssemblesTheRelease(t *testing.T) {
	b := release(t)
	require.Equal(t, logical.TypeLogical, b.Type())
	require.Contains(t, b.SpecialPaths().SealWrapStorage, "material/")
	require.Regexp(t, `^v\d+\.\d+\.\d+`, b.PluginVersion().Version)
}

// changing are the operations with effects, but for those that only compute.
var (
	changing  = []logical.Operation{logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation}
	computing = []string{
		"sign/:name", "verify/:name",
		"encrypt/:name", "decrypt/:name", "rewrap/:name", "datakey/plaintext/:name", "datakey/wrapped/:name",
	}
)

func TestEveryPathIsDocumentedAndForwarded(t *testing.T) {
	ids := map[string]string{}
	for _, p := range release(t).Paths {
		name := PathName(p)
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, p.HelpSynopsis)
			require.NotEmpty(t, p.HelpDescription)
			for field, s := range p.Fields {
				require.NotEmpty(t, s.Description, field)
			}
			for part := range strings.SplitSeq(name, "/") {
				if captured, ok := strings.CutPrefix(part, ":"); ok {
					require.Contains(t, p.Fields, captured)
				}
			}
			for op, handler := range p.Operations {
				checkOperation(t, name, op, handler.Properties(), ids)
			}
		})
	}
}

func checkOperation(t *testing.T, path string, op logical.Operation, p framework.OperationProperties, ids map[string]string) {
	t.Helper()
	require.NotEmpty(t, p.Summary, op)
	require.NotEmpty(t, p.Examples, op)
	require.Len(t, p.Responses[http.StatusOK], 1, op)
	answer := p.Responses[http.StatusOK][0]
	require.NotNil(t, answer.Fields, "%s declares no schema", op)
	if answer.Example != nil {
		for key := range answer.Example.Data {
			require.Contains(t, answer.Fields, key, "%s: the example has a key that its schema has not", op)
		}
	}
	if slices.Contains(changing, op) {
		forwarded := !slices.Contains(computing, path)
		require.Equal(t, forwarded, p.ForwardPerformanceStandby, op)
		require.Equal(t, forwarded, p.ForwardPerformanceSecondary, op)
	}
	if op == logical.CreateOperation {
		return // shares its OpenAPI id with update
	}
	require.NotNil(t, p.DisplayAttrs, op)
	id := p.DisplayAttrs.OperationVerb + "-" + p.DisplayAttrs.OperationSuffix
	require.Empty(t, ids[id], "%s of %s has the OpenAPI id of another", op, path)
	ids[id] = path
}

// No two paths may answer the same request.
func TestPathsDoNotOverlap(t *testing.T) {
	b := release(t)
	for _, p := range b.Paths {
		concrete := strings.NewReplacer(":name", "x", ":id", "x", ":version", "1", ":target", "y").Replace(PathName(p))
		require.Same(t, p, b.Route(concrete), concrete)
	}
}

func TestOpenAPIDocumentIsMade(t *testing.T) {
	resp, err := release(t).HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation})
	require.NoError(t, err)
	doc, ok := resp.Data["openapi"].(*framework.OASDocument)
	require.True(t, ok)
	require.Contains(t, doc.Paths, "/roles/{name}")
	require.Equal(t, "rotation-write-role", doc.Paths["/roles/{name}"].Post.OperationID)
	require.Contains(t, resp.Data["help"], "whole life of a rotated secret")
}

// A tick and a stop come through the same door as requests.
func TestVaultDrivesTheMount(t *testing.T) {
	m := newMount(t)
	_, err := m.handle(logical.RollbackOperation, "", nil)
	require.NoError(t, err)
	require.NoError(t, m.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: m.storage}), "again, as after an unseal")
	m.backend.InvalidateKey(t.Context(), "config")
}
