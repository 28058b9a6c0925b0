package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A narrator tells the story: text, commands and their answers, with the secrets masked.
type narrator struct {
	out         io.Writer
	vaultServer *vaulttest.Server
	dir         string // where the commands run, and find their @files
	chapter     int
	secrets     []string
}

// heading begins a chapter.
func (n *narrator) heading(title string) {
	n.chapter++
	line := fmt.Sprintf("── %d. %s ", n.chapter, title)
	n.printf("\n%s%s\n\n", line, strings.Repeat("─", max(0, 96-len([]rune(line)))))
}

// text prints a paragraph as it is.
func (n *narrator) text(format string, args ...any) { n.printf(format+"\n", args...) }

// vault runs a vault command and prints it with its answer, which it also returns.
func (n *narrator) vault(ctx context.Context, args ...string) (string, error) {
	output, err := n.execute(ctx, args)
	if err != nil {
		return output, fmt.Errorf("vault %s: %w", strings.Join(args, " "), err)
	}
	return output, nil
}

// refused runs a vault command that must be answered with an error, and prints both.
func (n *narrator) refused(ctx context.Context, args ...string) error {
	_, err := n.execute(ctx, args)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("vault %s: was accepted, and should have been refused", strings.Join(args, " "))
	}
}

func (n *narrator) execute(ctx context.Context, args []string) (string, error) {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = quote(arg)
	}
	n.printf("$ vault %s\n", strings.Join(quoted, " "))
	cmd := n.vaultServer.Command(ctx, args...)
	cmd.Dir = n.dir
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	n.learn(output.String())
	n.printf("%s\n\n", strings.TrimRight(n.mask(output.String()), "\n"))
	return output.String(), err
}

// fetch gets what anyone may fetch, and prints it as curl would, but for most headers.
func (n *narrator) fetch(ctx context.Context, path string) error {
	n.printf("$ curl -i $VAULT_ADDR/v1/%s\n", path)
	p, err := get(ctx, n.vaultServer.Address()+"/v1/"+path)
	if err != nil {
		return err
	}
	n.printf("HTTP/1.1 %s\nCache-Control: %s\n\n%s\n\n", p.status, p.cacheControl, keysOnLines(p.body))
	return nil
}

var (
	secretLine  = regexp.MustCompile(`(?m)^(?:password|token) +(\S+)$`)
	urlPassword = regexp.MustCompile(`(://[^:/@\s]+:)[^@\s]+@`)
)

// learn remembers the passwords and tokens in an answer, so that they are masked wherever they turn up.
func (n *narrator) learn(answer string) {
	for _, match := range secretLine.FindAllStringSubmatch(answer, -1) {
		n.secrets = append(n.secrets, match[1])
	}
}

// mask leaves the first characters of a secret, enough to see that it changed.
func (n *narrator) mask(text string) string {
	for _, secret := range n.secrets {
		text = strings.ReplaceAll(text, secret, secret[:min(4, len(secret)/3)]+"********")
	}
	return urlPassword.ReplaceAllString(text, "$1********@")
}

func (n *narrator) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(n.out, format, args...) // a closed output is no reason to stop the servers half-way
}

// quote makes an argument one word for a shell, where that is needed.
func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\n'\"\\$&|;<>()*?[]{}!#~`") {
		return arg
	}
	// As people write it: name='value with spaces'.
	name, value, found := strings.Cut(arg, "=")
	if !found || strings.ContainsAny(name, " '") {
		name, value = "", arg
	} else {
		name += "="
	}
	return name + "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
