package pgtest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// childVariable makes this test binary a program that starts a server, says so
// and waits to be killed.
const childVariable = "PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
	}
	os.Exit(pgtest.Main(m))
}

func child() {
	s, err := pgtest.Start(context.Background(), pgtest.Options{Dir: os.Getenv(childVariable)})
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	pid, err := s.QueryString(context.Background(), "postgres", "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
	if err != nil {
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString("pid " + pid + "\n")
	select {}
}

func TestServer(t *testing.T) {
	s := pgtest.New(t, pgtest.Options{Settings: map[string]string{"work_mem": "5MB"}})
	require.Equal(t, "5MB", s.MustQuery(t, "postgres", "SHOW work_mem"))
	require.Contains(t, s.Log(), "SHOW work_mem")
	require.Contains(t, s.TemplateURL("x"), "{{username}}:{{password}}@127.0.0.1:")

	t.Run("restart keeps data and port", func(t *testing.T) {
		port := s.Port()
		require.NoError(t, s.CreateDatabase(t.Context(), `odd "name"`, ""))
		require.NoError(t, s.Restart(t.Context()))
		require.Equal(t, port, s.Port())
		require.Equal(t, `odd "name"`, s.MustQuery(t, `odd "name"`, "SELECT current_database()::text"))
	})
	t.Run("pg_hba", func(t *testing.T) {
		s.MustExec(t, "postgres", "CREATE ROLE unwanted LOGIN PASSWORD 'pw'")
		require.NoError(t, s.SetHBA(t.Context(), "host all unwanted all reject"))
		_, err := s.Connect(t.Context(), "unwanted", "pw", "postgres")
		require.ErrorContains(t, err, "28000")
		require.NoError(t, s.SetHBA(t.Context()))
		conn, err := s.Connect(t.Context(), "unwanted", "pw", "postgres")
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	})
	t.Run("halt and resume", func(t *testing.T) {
		s.Halt()
		require.Error(t, s.Exec(t.Context(), "postgres", "SELECT 1"))
		require.NoError(t, s.Resume(t.Context()))
		require.NoError(t, s.Exec(t.Context(), "postgres", "SELECT 1"))
	})
}

func TestStandby(t *testing.T) {
	primary, standby := pgtest.NewPair(t)
	ctx := t.Context()
	primary.MustExec(t, "postgres", "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
	require.NoError(t, standby.CatchUp(ctx, primary))
	require.Equal(t, "1", standby.MustQuery(t, "postgres", "SELECT n::text FROM t"))
	require.ErrorContains(t, standby.Exec(ctx, "postgres", "INSERT INTO t VALUES (2)"), "25006")

	require.NoError(t, standby.PauseReplay(ctx))
	primary.MustExec(t, "postgres", "UPDATE t SET n = 2")
	require.Equal(t, "1", standby.MustQuery(t, "postgres", "SELECT n::text FROM t"), "it lags behind")
	require.NoError(t, standby.ResumeReplay(ctx))
	require.NoError(t, standby.CatchUp(ctx, primary))
	require.Equal(t, "2", standby.MustQuery(t, "postgres", "SELECT n::text FROM t"))

	primary.Halt()
	require.NoError(t, standby.Promote(ctx))
	standby.MustExec(t, "postgres", "INSERT INTO t VALUES (3)")
}

func TestNoServerSaysWhatToInstall(t *testing.T) {
	_, err := pgtest.Start(t.Context(), pgtest.Options{BinDir: t.TempDir()})
	require.ErrorIs(t, err, pgtest.ErrNoServer)
	require.ErrorContains(t, err, "apt-get install postgresql")
}

// A server must not outlive the process that started it, however that ends.
func TestServerEndsWithAKilledOwner(t *testing.T) {
	dir, err := os.MkdirTemp("", "pgtest-owner-") // t.TempDir is closed to the server's account
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, 200)
	n, err := out.Read(line)
	require.NoError(t, err)
	pid, found := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "pid ")
	require.True(t, found, "%s", line[:n])
	require.DirExists(t, "/proc/"+pid)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	}, 20*time.Second, 50*time.Millisecond)
}
