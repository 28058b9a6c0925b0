// Command vault-plugin-secrets-rotation serves the rotation secrets engine to
// Vault. Vault starts it; by hand it only tells its version.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	rotationsecrets "github.com/intelliflow/vault-plugin-secrets-rotation"
)

// heapFloor is memory that is reserved and never touched, so that it takes none itself: it
// only counts when the collector decides how much may be allocated until it runs again.
// A heap as small as ours would else be collected several times within one batch of texts
// to encrypt, which took a fifth of the time. The heap may grow by as much, no more.
const heapFloor = 32 << 20

func main() {
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println(rotationsecrets.Version)
		return
	}
	defer runtime.KeepAlive(make([]byte, heapFloor))
	// No TLS provider: Vault from 1.12 on speaks protocol 5, whose mutual TLS is
	// automatic. The provider is in Vault's API client, which the plugin can do without.
	err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: rotationsecrets.Factory})
	if err != nil {
		hclog.New(&hclog.LoggerOptions{JSONFormat: true}).Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}
