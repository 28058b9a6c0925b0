// Package rotationsecrets is a HashiCorp Vault secrets engine that does the whole
// life of a rotated secret: it makes the next version, proves that it works,
// switches readers to it, lets the old one run out, ends it, and proves it dead.
//
// This package is a thin translation between Vault's framework and the engine in
// package backend: a path parses its fields, calls one method of the Engine, and
// renders the answer. It is also the composition root: the one place that knows
// every kind of secret and every type of connection.
//
//	plugin.go    assembly and the life cycle that Vault drives
//	input*.go    what every request must satisfy before a handler sees it
//	identity.go  who asks, for claims that name the caller
//	errors.go    faults of the engine to answers of Vault
//	fields.go    declared options to Vault's fields, and back to given values
//	render.go    the engine's types to answers, with their schemas
//	path_*.go    one file for each subject of the API
package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent/httpcheck"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent/kubernetes"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent/vault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/email"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/pagerduty"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/slack"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/webhook"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/apikey"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Version is what this build reports to Vault: semantic, with a leading "v", and
// equal to the version it is registered under. A release sets it by
// -ldflags "-X github.com/intelliflow/vault-plugin-secrets-rotation.Version=v1.2.3".
var Version = "v0.0.0-dev"

// Backend is one mount of the engine.
type Backend struct {
	*framework.Backend
	engine *backend.Engine
	// roles, connections, channels and config are what their paths understand.
	roles, connections, channels, config vocabulary
}

// kinds are the parts that a mount is assembled from.
type kinds struct {
	rotators    []rotator.Rotator
	connections []rotator.ConnectionKind
	channels    []notify.Kind
}

// Factory makes a mount. It only assembles: Vault forbids calls to its system
// view before the mount is set up.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	return assemble(ctx, conf, kinds{
		rotators:    []rotator.Rotator{postgresql.New(), jwt.New(), encryption.New(), apikey.New()},
		connections: connectionKinds(),
		channels:    []notify.Kind{slack.New(), pagerduty.New(Version), webhook.New(), email.New()},
	})
}

func connectionKinds() []rotator.ConnectionKind {
	kinds := []rotator.ConnectionKind{postgresql.NewConnectionKind(), kubernetes.New(), httpcheck.New(), vault.NewConnectionKind()}
	for _, k := range apikey.NewConnectionKinds() {
		kinds = append(kinds, k)
	}
	return kinds
}

func assemble(ctx context.Context, conf *logical.BackendConfig, k kinds) (*Backend, error) {
	engine := backend.New(backend.Options{
		Storage:     store.FromLogical(conf.StorageView),
		System:      system{conf.System},
		Logger:      conf.Logger,
		Rotators:    k.rotators,
		Connections: k.connections,
		Channels:    k.channels,
		Sink:        eventSystem{conf.EventsSender},
	})
	b := &Backend{
		engine:      engine,
		roles:       roleVocabulary(engine),
		connections: connectionVocabulary(engine),
		channels:    channelVocabulary(engine),
		config:      vocabulary{noun: "configuration", common: backend.ConfigOptions()},
	}
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		Help:           rootHelp,
		PathsSpecial:   &logical.Paths{SealWrapStorage: store.SealWrapped(), Unauthenticated: unauthenticated()},
		Paths:          b.paths(),
		InitializeFunc: func(ctx context.Context, _ *logical.InitializationRequest) error { return engine.Start(ctx) },
		PeriodicFunc:   func(ctx context.Context, _ *logical.Request) error { return engine.Tick(ctx) },
		Clean:          func(context.Context) { engine.Close() }, //nolint:contextcheck // it ends the engine's own context
		Invalidate:     func(_ context.Context, key string) { engine.Invalidate(key) },
	}
	cached := *conf
	cached.System = &recentState{SystemView: conf.System}
	return b, b.Setup(ctx, &cached)
}

// paths lists every path, in the order in which the documentation tells of them. No
// two overlap; the framework tries them one after another, so what applications
// ask for all day comes first.
func (b *Backend) paths() []*framework.Path {
	return framework.PathAppend(
		b.credsPaths(),
		b.jwtPaths(),
		b.jwksPaths(),
		b.encryptionPaths(),
		b.configPaths(),
		b.connectionPaths(),
		b.channelPaths(),
		b.rolePaths(),
		b.rotatePaths(),
		b.stagePaths(),
		b.emergencyPaths(),
		b.incidentPaths(),
		b.reconcilePaths(),
		b.reencryptPaths(),
		b.statusPaths(),
		b.accessPaths(),
		b.preflightPaths(),
		b.metricsPaths(),
	)
}

// HandleRequest checks the input in one place, lets the path answer, and turns
// the engine's faults into Vault's errors in one place.
func (b *Backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if !addressesPath(req.Operation) {
		return b.Backend.HandleRequest(ctx, req)
	}
	if err := b.checkInput(req); err != nil {
		return respond(nil, err)
	}
	return respond(b.Backend.HandleRequest(ctx, req))
}

// HandleExistenceCheck looks at the path alone. Vault hides whatever an existence
// check says about the body behind "invalid request"; HandleRequest says it
// clearly a moment later.
func (b *Backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checked, exists bool, err error) {
	if wellNamed := checkSegments(req.Path) == nil; !wellNamed {
		return false, false, nil
	}
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

const rootHelp = `
The rotation secrets engine does the whole life of a rotated secret: it makes the
next version, proves that it works, switches readers to it, lets the old one run
out, ends it, and proves it dead.

Write a connection (how to reach the system in which a secret lives) and a role
(the policy for one secret); applications then read creds/:name, or have tokens
signed by it at sign/:name, or data encrypted at encrypt/:name. Operators rotate by hand with rotate/:name, go back with
rollback/:name, declare a leak with emergency/:name, and see everything at a glance
in status.
`
