// Package vaulttest starts a real Vault server as a child process, on loopback and in a folder of
// its own, and mounts the plugin in it as a real plugin process. End-to-end tests and the demo stand
// on it.
//
// The server survives what the tests do to it: Stop, Kill and Restart keep its ports, its storage
// and its unseal key; SnapshotStorage and RestoreStorage take it back in time, as an operator does
// who restores a backup. Children end with their parent, also when that one is killed (on Linux).
package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/child"
)

// How long the steps of a server's life may take. They are limits for a loaded machine, far above
// what the steps take on a quiet one (a start with initialisation and unseal: one to two seconds).
const (
	startTimeout  = 60 * time.Second
	stopTimeout   = 30 * time.Second
	pollInterval  = 20 * time.Millisecond
	clientTimeout = 90 * time.Second
)

// Options say how a Server is made. The zero value is a good one.
type Options struct {
	// Binary is the vault binary; "" asks scripts/ensure-vault, which may build one (minutes).
	Binary string
	// Plugin is the plugin's binary; "" builds this checkout's with BuildPlugin.
	Plugin string
	// WithoutPlugin leaves the plugin out: nothing is built nor registered.
	WithoutPlugin bool
	// PluginEnv are KEY=value pairs for the plugin's process.
	PluginEnv []string
	// Env are KEY=value pairs for Vault's own process, which starts with hardly any.
	Env []string
	// LogLevel is Vault's and the plugin's: trace, debug (the default), info, warn, error.
	LogLevel string
}

// A Server is one Vault, initialised and unsealed. Its methods may be called from one goroutine at a
// time, but for Client, Address, Token, Log, CLI and PluginPIDs, which any may call.
type Server struct {
	options     Options
	dir         string
	apiPort     int
	clusterPort int
	unsealKey   string
	token       string

	mu      sync.Mutex
	process *process // nil while stopped

	pluginPath string // inside plugin_directory; "" without a plugin
	snapshots  int
}

// TB is the part of testing.TB that New needs, so that programs may use this package without the
// testing one.
type TB interface {
	Context() context.Context
	Helper()
	Cleanup(func())
	Failed() bool
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// New starts a Server that ends with the test. A test that fails prints the end of Vault's log.
func New(t TB, options Options) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*startTimeout)
	defer cancel()
	s, err := Start(ctx, options)
	if err != nil {
		t.Fatalf("start Vault: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of Vault's log:\n%s", tail(s.Log(), 60))
		}
		if err := s.Close(); err != nil {
			t.Errorf("close Vault: %v", err)
		}
	})
	return s
}

// Start starts, initialises and unseals a Vault and registers the plugin, without mounting it. The
// context bounds the start alone: the server lives until Close.
func Start(ctx context.Context, options Options) (_ *Server, err error) {
	if options.LogLevel == "" {
		options.LogLevel = "debug"
	}
	if options.Binary == "" {
		if options.Binary, err = ensureVault(ctx); err != nil {
			return nil, err
		}
	}
	if options.Plugin == "" && !options.WithoutPlugin {
		if options.Plugin, err = BuildPlugin(ctx); err != nil {
			return nil, err
		}
	}

	// Not the test's own folder: its name may be longer than a unix socket's path allows, and
	// Vault and the plugin talk through sockets below this one.
	dir, err := os.MkdirTemp("", "vaulttest-")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // Vault refuses a plugin_directory behind a link
		return nil, err
	}
	s := &Server{options: options, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, folder := range []string{"storage", "plugins", "tmp", "home"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.firstStart(ctx); err != nil {
		return nil, err
	}
	if err := s.initialise(ctx); err != nil {
		return nil, err
	}
	if options.WithoutPlugin {
		return s, nil
	}
	return s, s.RegisterPlugin(ctx, options.Plugin)
}

// firstStart finds ports and starts the process on them. Another process may take a port between
// the look and the start, so it tries again on others.
func (s *Server) firstStart(ctx context.Context) error {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		ports, err := child.FreePorts(2)
		if err != nil {
			return err
		}
		s.apiPort, s.clusterPort = ports[0], ports[1]
		if err := s.writeConfig(); err != nil {
			return err
		}
		err = s.start(ctx)
		if err == nil || attempt == attempts || !strings.Contains(s.Log(), "address already in use") {
			return err
		}
	}
}

func (s *Server) writeConfig() error {
	// Raft is what most operators run, and the one durable storage of a Vault built with the tag
	// minimal. The lowest multiplier: a lone node need not wait long before it elects itself.
	config := fmt.Sprintf(`
storage "raft" {
  path                   = %[1]q
  node_id                = "vaulttest"
  performance_multiplier = 1
}
listener "tcp" {
  address         = "127.0.0.1:%[2]d"
  cluster_address = "127.0.0.1:%[3]d"
  tls_disable     = true
}
api_addr         = "http://127.0.0.1:%[2]d"
cluster_addr     = "http://127.0.0.1:%[3]d"
plugin_directory = %[4]q
log_level        = %[5]q
disable_mlock    = true
ui               = false
`, s.storageDir(), s.apiPort, s.clusterPort, s.pluginDir(), s.options.LogLevel)
	return os.WriteFile(s.configFile(), []byte(config), 0o600)
}

// initialise makes the barrier with one key share and unseals.
func (s *Server) initialise(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	answer, err := s.Client().Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialise Vault: %w", err)
	}
	s.unsealKey, s.token = answer.KeysB64[0], answer.RootToken
	return s.Unseal(ctx)
}

// Unseal unseals the server and waits until it is active and its mounts are there.
func (s *Server) Unseal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := s.Client()
	if _, err := client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return fmt.Errorf("unseal Vault: %w", err)
	}
	return s.until(ctx, "Vault to become active", func(ctx context.Context) bool {
		health, err := client.Sys().HealthWithContext(ctx)
		return err == nil && health.Initialized && !health.Sealed && !health.Standby
	})
}

// Seal seals the server; its process goes on, the plugin's ends.
func (s *Server) Seal(ctx context.Context) error {
	if err := s.Client().Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("seal Vault: %w", err)
	}
	return nil
}

// Restart stops the server when it runs, starts it on the same ports and storage, and unseals it.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	return s.Unseal(ctx)
}

// Close stops the server and removes its folder, logs and snapshots. It may be called twice.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return errors.Join(s.Stop(ctx), os.RemoveAll(s.dir))
}

// Address is where the server listens: http://127.0.0.1:port. It stays the same over restarts.
func (s *Server) Address() string { return fmt.Sprintf("http://127.0.0.1:%d", s.apiPort) }

// Token is the root token.
func (s *Server) Token() string { return s.token }

// Binary is the vault binary that runs.
func (s *Server) Binary() string { return s.options.Binary }

// Client returns a new client with the root token. It takes no settings from the environment, and
// does not repeat a request that was answered with a 5xx, so that a test sees that answer.
func (s *Server) Client() *api.Client {
	config := api.DefaultConfig()
	config.Address = s.Address()
	config.MaxRetries = 0
	config.Timeout = clientTimeout
	client, err := api.NewClient(config)
	if err != nil {
		panic(fmt.Sprintf("vaulttest: the address %q of our own making is refused: %v", s.Address(), err))
	}
	client.ClearNamespace()
	client.SetToken(s.token)
	return client
}

// Command is `vault args...` with the root token, ready to run.
func (s *Server) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.options.Binary, args...)
	cmd.Env = append(s.environment(), "VAULT_ADDR="+s.Address(), "VAULT_TOKEN="+s.token, "NO_COLOR=1")
	return cmd
}

// CLI runs Command and returns what it printed on both outputs, with an error when it failed.
func (s *Server) CLI(ctx context.Context, args ...string) (string, error) {
	output, err := s.Command(ctx, args...).CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("vault %s: %w", strings.Join(args, " "), err)
	}
	return string(output), nil
}

// EnableAudit makes Vault write its audit log to the file.
func (s *Server) EnableAudit(ctx context.Context, file string) error {
	err := s.Client().Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": file, "mode": "0600"},
	})
	if err != nil {
		return fmt.Errorf("enable the audit log: %w", err)
	}
	return nil
}

// Log returns everything that Vault and the plugin have logged, over all restarts.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("vaulttest: %v", err)
	}
	return string(text)
}

func (s *Server) configFile() string { return filepath.Join(s.dir, "vault.hcl") }
func (s *Server) logFile() string    { return filepath.Join(s.dir, "vault.log") }
func (s *Server) storageDir() string { return filepath.Join(s.dir, "storage") }
func (s *Server) pluginDir() string  { return filepath.Join(s.dir, "plugins") }

// environment is what Vault's processes start with: nothing of the developer's own Vault.
func (s *Server) environment() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + filepath.Join(s.dir, "home"),
		"TMPDIR=" + filepath.Join(s.dir, "tmp"),
	}
	// A binary built to collect coverage writes it where the test run wants it.
	if folder, ok := os.LookupEnv("GOCOVERDIR"); ok {
		env = append(env, "GOCOVERDIR="+folder)
	}
	return append(env, s.options.Env...)
}

// ensureVault asks the script that finds or builds Vault.
func ensureVault(ctx context.Context) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "ensure-vault"))
	var said strings.Builder
	cmd.Stderr = &said
	path, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find a vault binary: %w\n%s", err, said.String())
	}
	return strings.TrimSpace(string(path)), nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
