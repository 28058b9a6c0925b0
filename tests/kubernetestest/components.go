package kubernetestest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/certs"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/child"
)

// A component is one process of the control plane.
type component struct {
	name    string
	logFile string
	process *child.Process
}

// run starts a component with its own log.
func (c *Cluster) run(name string, arguments ...string) error {
	logFile, err := os.OpenFile(c.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() // the child has its own copy
	cmd := exec.Command(filepath.Join(c.binaries, name), arguments...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, logFile, logFile
	cmd.Env = []string{"HOME=" + c.dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + c.dir} // nothing of the developer's own cluster
	process, err := child.Start(cmd)
	if err != nil {
		return err
	}
	c.components = append(c.components, &component{name, logFile.Name(), process})
	return nil
}

func (k *component) ended() bool {
	select {
	case <-k.process.Exited():
		return true
	default:
		return false
	}
}

// stop ends the process. One that has ended by itself is an error.
func (k *component) stop() error {
	if k.ended() {
		return fmt.Errorf("%s ended by itself (%w): its log ends with\n%s", k.name, k.process.Err(), k.log(20))
	}
	return k.process.Stop(stopTimeout)
}

func (k *component) log(lines int) string {
	text, err := os.ReadFile(k.logFile)
	if err != nil {
		return "cannot read the log: " + err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Logs are the last lines that each component has logged.
func (c *Cluster) Logs(lines int) string {
	var b strings.Builder
	for _, k := range c.components {
		fmt.Fprintf(&b, "--- %s\n%s\n", k.name, k.log(lines))
	}
	return b.String()
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *Cluster) etcd() []string {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", c.ports.etcd), fmt.Sprintf("http://127.0.0.1:%d", c.ports.peer)
	return []string{
		"--data-dir=" + c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
	}
}

func (c *Cluster) apiServer() []string {
	return []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.ports.etcd),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.ports.api),
		"--endpoint-reconciler-type=none", // it does not announce an address on loopback
		"--service-cluster-ip-range=10.0.0.0/24",
		"--tls-cert-file=" + c.path("server.crt"), "--tls-private-key-file=" + c.path("server.key"),
		"--client-ca-file=" + c.path("ca.crt"), "--authorization-mode=RBAC",
		"--service-account-issuer=" + c.Address(),
		"--service-account-key-file=" + c.path("accounts.key"), "--service-account-signing-key-file=" + c.path("accounts.key"),
		// It taints a new node until a controller, which does not run, has seen its kubelet.
		"--disable-admission-plugins=TaintNodesByCondition",
	}
}

func (c *Cluster) controllerManager() []string {
	return []string{
		"--kubeconfig=" + c.path("kube-controller-manager.json"), "--leader-elect=false", "--secure-port=0",
		"--use-service-account-credentials=true", // each controller has rights of its own
		"--service-account-private-key-file=" + c.path("accounts.key"), "--root-ca-file=" + c.path("ca.crt"),
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller," +
			"serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,namespace-controller," +
			"garbage-collector-controller,disruption-controller",
		// Clients of the control plane are few here, and tests wait for it.
		"--kube-api-qps=200", "--kube-api-burst=400",
	}
}

func (c *Cluster) scheduler() []string {
	return []string{"--kubeconfig=" + c.path("kube-scheduler.json"), "--leader-elect=false", "--secure-port=0"}
}

func (c *Cluster) kwok() []string {
	return []string{
		"--kubeconfig=" + c.path("kwok.json"), "--config=" + c.path("stages.yaml"), "--manage-all-nodes=true",
		"--node-lease-duration-seconds=0", "--node-ip=127.0.0.1", "--cidr=10.244.0.1/16",
	}
}

// administrators is the group that may do everything.
const administrators = "system:masters"

// writeFiles writes what the components read: certificates, keys, who they log in as, and the stages.
func (c *Cluster) writeFiles() (err error) {
	if c.authority, err = certs.New("kubernetestest CA"); err != nil {
		return err
	}
	certificate, key, err := c.authority.Server("kube-apiserver")
	if err != nil {
		return err
	}
	accounts, err := certs.Key()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": c.authority.PEM, "server.crt": certificate, "server.key": key, "accounts.key": accounts, "stages.yaml": []byte(stages()),
	}
	for name, who := range map[string][]string{
		"kube-controller-manager": {"system:kube-controller-manager"}, "kube-scheduler": {"system:kube-scheduler"},
		"kwok": {"kwok", administrators},
	} {
		if files[name+".json"], err = c.kubeconfig(who[0], who[1:]...); err != nil {
			return err
		}
	}
	for name, content := range files {
		if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig says where the API server is and who calls it. JSON is YAML, too.
func (c *Cluster) kubeconfig(user string, groups ...string) ([]byte, error) {
	certificate, key, err := c.authority.Client(user, groups...)
	if err != nil {
		return nil, err
	}
	const name = "kubernetestest"
	return json.Marshal(Object{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []Object{{"name": name, "cluster": Object{"server": c.Address(), "certificate-authority-data": c.authority.PEM}}},
		"users":    []Object{{"name": name, "user": Object{"client-certificate-data": certificate, "client-key-data": key}}},
		"contexts": []Object{{"name": name, "context": Object{"cluster": name, "user": name}}},
	})
}
