// Command apidoc writes docs/api.md from the paths that the plugin registers, to
// the file that is named or else to its standard output:
//
//	go run ./scripts/apidoc > docs/api.md
package main

//go:generate go run . ../../docs/api.md

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/vault/sdk/logical"

	rotationsecrets "github.com/intelliflow/vault-plugin-secrets-rotation"
)

func main() {
	var out bytes.Buffer
	err := run(&out)
	if err == nil && len(os.Args) > 1 {
		err = os.WriteFile(os.Args[1], out.Bytes(), 0o644)
	} else if err == nil {
		_, err = out.WriteTo(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "apidoc:", err)
		os.Exit(1)
	}
}

func run(out *bytes.Buffer) error {
	mount, err := rotationsecrets.Factory(context.Background(), &logical.BackendConfig{
		System:      logical.StaticSystemView{},
		StorageView: &logical.InmemStorage{},
	})
	if err != nil {
		return err
	}
	backend, ok := mount.(*rotationsecrets.Backend)
	if !ok {
		return fmt.Errorf("the factory made a %T", mount)
	}
	document{out: out}.write(backend)
	return nil
}
