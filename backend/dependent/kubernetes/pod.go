package kubernetes

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// pod is what a pod of Kubernetes is told of its cluster: the address in its environment, and
// files with the service account's token and the cluster's authority.
type pod struct {
	folder string
	getenv func(string) string
	now    func() time.Time
}

func ownPod() pod {
	return pod{folder: "/var/run/secrets/kubernetes.io/serviceaccount", getenv: os.Getenv, now: time.Now}
}

// host is the address of the API server, and "" outside of a pod.
func (p pod) host() string {
	host, port := p.getenv("KUBERNETES_SERVICE_HOST"), p.getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port)
}

// token is that of the pod's service account. The kubelet writes another one before it ends.
func (p pod) token() (secret.String, error) {
	text, err := p.file("token")
	if err != nil {
		return secret.String{}, err
	}
	token := secret.New(strings.TrimSpace(text))
	if reason := unfit(token); reason != "" {
		return secret.String{}, fmt.Errorf("the token of Vault's own pod %s (%s)", reason, filepath.Join(p.folder, "token"))
	}
	return token, nil
}

// authority is who vouches for the API server, in PEM form.
func (p pod) authority() (string, error) {
	text, err := p.file("ca.crt")
	if err != nil {
		return "", err
	}
	if pool, err := egress.Authorities("ca.crt", text); err != nil || pool == nil {
		return "", fmt.Errorf("the file %s of Vault's own pod holds no certificate in PEM form", filepath.Join(p.folder, "ca.crt"))
	}
	return text, nil
}

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

func (p pod) file(name string) (string, error) {
	path := filepath.Join(p.folder, name)
	unread := func(err error) error {
		var on *os.PathError
		if errors.As(err, &on) {
			err = on.Err
		}
		return fmt.Errorf("the file %s of Vault's own pod cannot be read: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", unread(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return "", unread(err)
	}
	return string(text), nil
}
