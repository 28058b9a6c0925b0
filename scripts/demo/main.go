// Command demo shows the plugin at work in a real Vault, against a real PostgreSQL: each step prints
// the vault command that a person would type, runs it, and prints what it answered. Meanwhile an
// application keeps logging in to the database, and nothing of this may cost it a login; another one
// reads and writes encrypted cards, each of which must be what was stored; and a verifier keeps
// checking tokens, of which none may be refused. The providers of API keys are stand-ins on this
// machine.
//
//	go run ./scripts/demo          the tour; it stops by itself after a minute and a half
//	go run ./scripts/demo -keep    the same Vault and PostgreSQL, left running until Ctrl-C
//
// It fails when the plugin does not do what the text says, so it is a test as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	keep := flag.Bool("keep", false, "set everything up, print how to use it, and run until Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *keep)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted:
		fmt.Fprintln(os.Stderr, "\ninterrupted; everything was stopped and removed")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	say := &narrator{out: os.Stdout}
	stage, err := raise(ctx, say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.strike()) }()
	say.vaultServer, say.dir = stage.vault, stage.dir
	if keep {
		return develop(ctx, say, stage)
	}
	return tour(ctx, say, stage)
}
