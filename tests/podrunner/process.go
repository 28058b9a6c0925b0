package podrunner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// configVariable holds what a pod's process is told: without it, the binary is no pod.
const configVariable = "PODRUNNER_CONFIG"

type config struct {
	Pod, App                       string
	VaultAddress, VaultToken, Path string
	PostgresCA                     string
	BrokenFrom                     int
}

// Health is what a process says of itself.
type Health struct {
	Pod      string `json:"pod"`
	Username string `json:"username"`
	Version  int    `json:"version"`
	Refused  bool   `json:"refused"` // the server refused the login
	Error    string `json:"error"`
}

// Main serves as a pod and does not return, when a Runner started this process as one. TestMain calls
// it first:
//
//	func TestMain(m *testing.M) { podrunner.Main(); os.Exit(m.Run()) }
func Main() {
	text, isPod := os.LookupEnv(configVariable)
	if !isPod {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// application is what a pod keeps of its start: the credential that it read then.
type application struct {
	config     config
	credential credential
	postgres   *pgx.ConnConfig
}

type credential struct {
	Version  int    `json:"version"`
	Username string `json:"username"`
	URL      string `json:"connection_url"`
}

func serve(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var a application
	err := json.Unmarshal([]byte(text), &a.config)
	if err == nil {
		a.credential, err = readCredential(ctx, a.config)
	}
	if err == nil {
		a.postgres, err = a.connection()
	}
	if err != nil {
		return err
	}
	// Its pool, so to speak: a session for as long as the process lives. A login that is refused is told
	// by its health.
	if session, err := pgx.ConnectConfig(ctx, a.postgres); err == nil {
		defer session.Close(context.WithoutCancel(ctx))
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(a.answer), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if _, err := fmt.Fprintln(os.Stdout, listener.Addr()); err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout/2)
	defer cancel()
	return server.Shutdown(ctx) // requests that it has are answered
}

// readCredential reads the credential once. While Vault answers with a 5xx or not at all, as it does
// for a moment when a plugin's process was killed, it asks again.
func readCredential(ctx context.Context, c config) (credential, error) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		found, again, err := askVault(ctx, c)
		if !again {
			return found, err
		}
		fmt.Fprintln(os.Stderr, err)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return credential{}, ctx.Err()
		}
	}
}

func askVault(ctx context.Context, c config) (found credential, again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.VaultAddress+"/v1/"+c.Path, nil)
	if err != nil {
		return credential{}, false, err
	}
	request.Header.Set("X-Vault-Token", c.VaultToken)
	response, err := (&http.Client{Timeout: probeTimeout}).Do(request)
	if err != nil {
		return credential{}, true, err
	}
	defer response.Body.Close()
	var answer struct {
		Data   credential `json:"data"`
		Errors []string   `json:"errors"`
	}
	err = json.NewDecoder(response.Body).Decode(&answer)
	if response.StatusCode != http.StatusOK {
		again = response.StatusCode >= http.StatusInternalServerError
		err = fmt.Errorf("read %s: %d %s", c.Path, response.StatusCode, strings.Join(answer.Errors, "; "))
	}
	return answer.Data, again, err
}

// connection is the credential's connection_url as it is, on a machine that trusts the authority.
func (a *application) connection() (*pgx.ConnConfig, error) {
	parsed, err := pgx.ParseConfig(a.credential.URL)
	if err != nil {
		return nil, errors.New("the credential's connection_url cannot be read") // the error may quote it
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(a.config.PostgresCA))
	parsed.TLSConfig = &tls.Config{RootCAs: roots, ServerName: parsed.Host, MinVersion: tls.VersionTLS12}
	parsed.Fallbacks, parsed.ConnectTimeout = nil, probeTimeout/2
	parsed.RuntimeParams["application_name"] = a.config.App
	return parsed, nil
}

// answer answers any request with the pod's health, for which it logs in.
func (a *application) answer(w http.ResponseWriter, request *http.Request) {
	health := Health{Pod: a.config.Pod, Username: a.credential.Username, Version: a.credential.Version}
	if err := a.login(request.Context()); err != nil {
		var answer *pgconn.PgError
		health.Refused = errors.As(err, &answer) && strings.HasPrefix(answer.Code, "28") // invalid authorisation
		health.Error = err.Error()
	} else if broken := a.config.BrokenFrom; broken > 0 && health.Version >= broken {
		health.Error = fmt.Sprintf("this release does not work with version %d", health.Version)
	}
	status := http.StatusOK
	if health.Error != "" {
		status = http.StatusServiceUnavailable
		fmt.Fprintln(os.Stderr, health.Error)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(health) // whoever asked may be gone
}

func (a *application) login(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, a.postgres)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.Ping(ctx)
}
