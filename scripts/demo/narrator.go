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
	secrets     []learnt
}

// learnt is a secret, and what is shown in its place.
type learnt struct{ secret, shown string }

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

// vaultEach runs one command after the other.
func (n *narrator) vaultEach(ctx context.Context, commands ...[]string) error {
	for _, args := range commands {
		if _, err := n.vault(ctx, args...); err != nil {
			return err
		}
	}
	return nil
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

// call calls a provider's API with a key, which is shown by a name, and prints it as curl would.
func (n *narrator) call(ctx context.Context, url, name, key string, wanted int) error {
	n.printf("$ curl -i -H \"Authorization: Bearer $%s\" %s\n", name, url)
	a, err := ask(ctx, url, key)
	if err != nil {
		return err
	}
	n.printf("HTTP/1.1 %s\n\n%s\n\n", a.status, n.mask(a.body))
	if a.code != wanted {
		return fmt.Errorf("%s answered %s to %s, and should have answered %d", url, a.status, name, wanted)
	}
	return nil
}

var (
	secretLine  = regexp.MustCompile(`(?m)^(password|token|(?:primary|secondary)_key) +(\S+)$`)
	urlPassword = regexp.MustCompile(`(://[^:/@\s]+:)[^@\s]+@`)
)

// learn remembers the passwords, tokens and keys in an answer, so that they are masked wherever they
// turn up. What is left of them is enough to see that they changed: API keys all begin alike.
func (n *narrator) learn(answer string) {
	for _, match := range secretLine.FindAllStringSubmatch(answer, -1) {
		secret := match[2]
		shown := secret[:min(4, len(secret)/3)] + "********"
		if strings.HasSuffix(match[1], "_key") && len(secret) >= 40 {
			shown = secret[:8] + "********" + secret[len(secret)-4:]
		}
		n.secrets = append(n.secrets, learnt{secret, shown})
	}
}

// mask hides what was learnt.
func (n *narrator) mask(text string) string {
	for _, known := range n.secrets {
		text = strings.ReplaceAll(text, known.secret, known.shown)
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
