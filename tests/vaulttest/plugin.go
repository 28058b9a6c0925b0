package vaulttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/vault/api"
)

// PluginName is the plugin's name in Vault's catalogue, and the name of its binary.
const PluginName = "vault-plugin-secrets-rotation"

const modulePath = "github.com/intelliflow/" + PluginName

// builds remembers, by build tags, what this test process has built.
var builds = struct {
	sync.Mutex
	paths map[string]string
}{paths: map[string]string{}}

// BuildPlugin builds this checkout's plugin, once per process and set of build tags, and returns the
// binary's path. VAULTTEST_PLUGIN names a binary to use instead when no tags are asked for;
// VAULTTEST_RACE=1 builds with the race detector.
func BuildPlugin(ctx context.Context, tags ...string) (string, error) {
	if path := os.Getenv("VAULTTEST_PLUGIN"); path != "" && len(tags) == 0 {
		return filepath.Abs(path)
	}
	builds.Lock()
	defer builds.Unlock()
	key := strings.Join(tags, ",")
	if path, ok := builds.paths[key]; ok {
		return path, nil
	}
	path, err := buildPlugin(ctx, key, os.Getenv("VAULTTEST_RACE") == "1")
	if err == nil {
		builds.paths[key] = path
	}
	return path, err
}

func buildPlugin(ctx context.Context, tags string, race bool) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	// One place for each checkout and flavour: what is there is replaced at each build, so that
	// binaries do not pile up, and no other checkout's tests can be handed ours.
	sum := sha256.Sum256([]byte(root))
	name := hex.EncodeToString(sum[:6])
	args := []string{"build", "-buildvcs=false"} // no version control needed, nor trusted
	if tags != "" {
		args, name = append(args, "-tags="+tags), name+"-"+strings.ReplaceAll(tags, ",", "-")
	}
	if race {
		args, name = append(args, "-race"), name+"-race"
	}
	folder := filepath.Join(cache, PluginName, "plugins", name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	target := filepath.Join(folder, PluginName)
	partial := target + "." + strconv.Itoa(os.Getpid())
	defer os.Remove(partial) // after the rename there is nothing to remove
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", partial, "./cmd/"+PluginName)...)
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the plugin: %w\n%s", err, output)
	}
	// The rename leaves a binary that already runs, or was linked elsewhere, as it was.
	return target, os.Rename(partial, target)
}

// RegisterPlugin puts the binary into Vault's plugin directory and registers it under PluginName,
// with the version that the binary itself reports. Doing so again replaces the plugin; mounts take
// the new one when they are reloaded.
func (s *Server) RegisterPlugin(ctx context.Context, binary string) error {
	s.pluginPath = filepath.Join(s.pluginDir(), PluginName)
	return s.register(ctx, PluginName, api.PluginTypeSecrets, binary, s.options.PluginEnv)
}

// RegisterDatabasePlugin puts a plugin of Vault's own database engine into Vault's catalogue: a Vault
// built with the tag minimal has the engine and none of its plugins.
func (s *Server) RegisterDatabasePlugin(ctx context.Context, name, binary string) error {
	return s.register(ctx, name, api.PluginTypeDatabase, binary, nil)
}

func (s *Server) register(ctx context.Context, name string, kind api.PluginType, binary string, env []string) error {
	sum, err := install(binary, filepath.Join(s.pluginDir(), name))
	if err != nil {
		return fmt.Errorf("install the plugin %s: %w", name, err)
	}
	// Without a version, Vault runs the binary and takes the one that it reports.
	err = s.Client().Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name: name, Type: kind, Command: name, SHA256: sum, Env: env,
	})
	if err != nil {
		return fmt.Errorf("register the plugin %s: %w\n%s", name, err, tail(s.Log(), 20))
	}
	return nil
}

// EnableSecrets mounts one of Vault's own secrets engines under its own name.
func (s *Server) EnableSecrets(ctx context.Context, engine string) error {
	if err := s.Client().Sys().MountWithContext(ctx, engine, &api.MountInput{Type: engine}); err != nil {
		return fmt.Errorf("mount %s: %w", engine, err)
	}
	return nil
}

// Mount mounts the plugin at the path, as `vault secrets enable -path=... vault-plugin-secrets-rotation`.
func (s *Server) Mount(ctx context.Context, path string) error {
	if err := s.Client().Sys().MountWithContext(ctx, path, &api.MountInput{Type: PluginName}); err != nil {
		return fmt.Errorf("mount the plugin at %s: %w", path, err)
	}
	return nil
}

// PluginPIDs returns the process ids of the plugin's processes: children of this Vault that run its
// plugin binary. There is one for all mounts, and none while Vault is stopped or sealed.
func (s *Server) PluginPIDs() ([]int, error) {
	processes, err := s.pluginProcesses()
	if err != nil {
		return nil, err
	}
	pids := make([]int, len(processes))
	for i, p := range processes {
		pids[i] = p.Pid
	}
	return pids, nil
}

// KillPlugin ends the plugin's processes with SIGKILL and waits until they are gone. It answers how
// many there were. Vault starts the plugin again at a request or tick after it has noticed; until then,
// for some milliseconds, it answers requests with a 500, which Vault's own clients repeat.
func (s *Server) KillPlugin(ctx context.Context) (int, error) {
	processes, err := s.pluginProcesses()
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return 0, fmt.Errorf("kill the plugin: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return len(processes), s.until(ctx, "the plugin's process to end", func(context.Context) bool {
		for _, p := range processes {
			if s.isPlugin(p.Pid) {
				return false
			}
		}
		return true
	})
}

// pluginProcesses returns handles to the plugin's processes, which stay theirs should a process id
// be used again.
func (s *Server) pluginProcesses() ([]*os.Process, error) {
	if s.pluginPath == "" || s.running() == nil {
		return nil, nil
	}
	if runtime.GOOS != "linux" {
		return nil, nil // there is no /proc to find them by; Vault ends its plugins by itself
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []*os.Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !s.isPlugin(pid) {
			continue
		}
		p, err := os.FindProcess(pid)
		if err == nil && s.isPlugin(pid) { // still the same one, now that we hold it
			found = append(found, p)
		}
	}
	return found, nil
}

// isPlugin tells whether the process is a living child of our Vault that runs our plugin.
func (s *Server) isPlugin(pid int) bool {
	p := s.running()
	if p == nil {
		return false
	}
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	executable, err := os.Readlink(filepath.Join(folder, "exe"))
	if err != nil || strings.TrimSuffix(executable, " (deleted)") != s.pluginPath {
		return false
	}
	stat, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return false
	}
	// pid (name) state ppid ...; the name may hold anything, a parenthesis too.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return len(fields) > 1 && string(fields[0]) != "Z" && string(fields[1]) == strconv.Itoa(p.os.Pid)
}

// install copies the binary and returns its SHA-256 in hexadecimal. It replaces the target as a
// whole, since a running binary cannot be written to.
func install(binary, target string) (string, error) {
	from, err := os.Open(binary)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.OpenFile(target+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(to, sum), from)
	if err := errors.Join(err, to.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), os.Rename(target+".new", target)
}

// moduleRoot finds this checkout from the working directory, which a test has in its own folder.
func moduleRoot() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		content, err := os.ReadFile(filepath.Join(folder, "go.mod"))
		if err == nil && bytes.HasPrefix(content, []byte("module "+modulePath+"\n")) {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", fmt.Errorf("the working directory is not inside the module %s", modulePath)
		}
		folder = parent
	}
}
