package playground

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
)

// Users that have a token of their own. Anybody else is impersonated by the admin.
const (
	// AdminUser may do everything.
	AdminUser = "admin"
	// SchedulerUser is the service account that the shipped manifests give the scheduler, so what it may do here is what
	// it may do in a cluster.
	SchedulerUser = "system:serviceaccount:weft-system:weft-scheduler"
	// ControllerUser is the controller's, likewise.
	ControllerUser = "system:serviceaccount:weft-system:weft-controller"
	// KWOKUser stands for the kubelets of all simulated nodes; its rights are those of [StartKWOK].
	KWOKUser = "weft-playground:kwok"
)

// user is a line of the token file.
type user struct {
	name   string
	groups []string
	token  string
}

// users holds the secrets of one control plane.
type users struct {
	byName    map[string]user
	tokenFile string
	keyFile   string
	// These CAs stand where a cluster has them. Their keys are thrown away, so nobody gets in by a certificate.
	clientCAFile, frontProxyCAFile string
}

// newUsers makes tokens and the key that signs service account tokens, and writes them to dir.
func newUsers(dir string) (*users, error) {
	u := &users{
		byName:    map[string]user{},
		tokenFile: filepath.Join(dir, "tokens.csv"),
		keyFile:   filepath.Join(dir, "service-account.key"),

		clientCAFile:     filepath.Join(dir, "client-ca.crt"),
		frontProxyCAFile: filepath.Join(dir, "front-proxy-ca.crt"),
	}
	var csv strings.Builder
	for _, x := range []user{
		{name: AdminUser, groups: []string{"system:masters"}},
		{name: SchedulerUser, groups: []string{"system:serviceaccounts", "system:serviceaccounts:weft-system"}},
		{name: ControllerUser, groups: []string{"system:serviceaccounts", "system:serviceaccounts:weft-system"}},
		{name: KWOKUser},
	} {
		b := make([]byte, 16)
		if _, err := rand.Read(b); err != nil {
			return nil, err
		}
		x.token = hex.EncodeToString(b)
		u.byName[x.name] = x
		// token, user, uid, groups; names here need no quoting but the list of groups does.
		fmt.Fprintf(&csv, "%s,%s,%s,%q\n", x.token, x.name, x.name, strings.Join(x.groups, ","))
	}
	if err := os.WriteFile(u.tokenFile, []byte(csv.String()), 0o600); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return u, errors.Join(
		os.WriteFile(u.keyFile, block, 0o600),
		writeCA(u.clientCAFile, "weft-playground-client-ca"),
		writeCA(u.frontProxyCAFile, "weft-playground-front-proxy-ca"),
	)
}

// writeCA writes the certificate of a new CA, and its key nowhere.
func writeCA(path, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: name}, key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: cert.Raw}), 0o600)
}

// ConfigFor is the configuration of a client that acts as the user, without a limit on its rate: with the user's own
// token where it has one and no groups are given, otherwise by impersonation.
func (cp *ControlPlane) ConfigFor(name string, groups ...string) *rest.Config {
	cfg := &rest.Config{
		Host:            "https://" + cp.apiServer.Address(),
		TLSClientConfig: rest.TLSClientConfig{CAData: cp.ca},
		QPS:             -1,
	}
	if u, ok := cp.users.byName[name]; ok && len(groups) == 0 {
		cfg.BearerToken = u.token
		return cfg
	}
	cfg.BearerToken = cp.users.byName[AdminUser].token
	cfg.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: groups}
	return cfg
}

var unsafeInFileName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// Kubeconfig writes a kubeconfig for the user, as ConfigFor acts for it, and returns its path. It lies in Dir.
func (cp *ControlPlane) Kubeconfig(name string) (string, error) {
	cfg := cp.ConfigFor(name)
	const cluster = "weft-playground"
	out := clientcmdapi.NewConfig()
	out.Clusters[cluster] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	out.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: cfg.BearerToken, Impersonate: cfg.Impersonate.UserName}
	out.Contexts[cluster] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: name}
	out.CurrentContext = cluster
	path := filepath.Join(cp.dir, unsafeInFileName.ReplaceAllString(name, "-")+".kubeconfig")
	if err := clientcmd.WriteToFile(*out, path); err != nil {
		return "", fmt.Errorf("kubeconfig of %s: %w", name, err)
	}
	return path, nil
}
