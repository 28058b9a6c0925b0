package backend_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Nothing may run on after Close.
func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
