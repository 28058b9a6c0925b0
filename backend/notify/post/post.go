// Package post is what the kinds of channel that speak HTTP share: the options of an
// address, one request to it, and the failure that an answer means.
package post

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Options are those of every kind, beside its url. A list of allowed hosts would add nothing:
// requests go to the host of url alone, and whoever writes the one would write the other.
var Options = option.Set{
	{Name: "allow_insecure_http", Type: option.Bool, Default: false, Address: true, Help: "Admit http:// in url: messages, and what authenticates them, then travel in clear."},
	{Name: "tls_ca", Type: option.String, Address: true, Help: "Certificate authority of the host in url, in PEM form. Default: the system's."},
}

// minSecret is the least length, in bytes, of what follows the host where that counts as secret.
const minSecret = 8

// Place is where messages are posted to. Its fields bear the names of the options.
type Place struct {
	URL      string `json:"url"`
	Insecure bool   `json:"allow_insecure_http"`
	CA       string `json:"tls_ca"`
}

// Check refuses a place that nothing can be posted to, or should be. The URL is never quoted:
// it may be a secret. example says what one looks like.
func (p *Place) Check(example string) error {
	u, err := url.Parse(p.URL)
	switch {
	case p.URL == "":
		return fault.Field("url", "is required: where messages are posted to, such as %s", example)
	case err != nil || u.Opaque != "" || u.Hostname() == "" || strings.ContainsFunc(p.URL, unsendable) || strings.Contains(p.URL, "#"):
		return fault.Field("url", "must be a URL such as %s, in ASCII and without spaces or a fragment", example)
	case u.User != nil:
		return fault.Field("url", "must not hold a user or a password")
	case u.Scheme == "http" && !p.Insecure:
		return fault.Field("url", "must begin with https://: http:// sends messages in clear, and needs allow_insecure_http=true")
	case u.Scheme != "http" && u.Scheme != "https":
		return fault.Field("url", "must begin with https://")
	}
	_, err = egress.Authorities("tls_ca", p.CA)
	return err
}

func unsendable(r rune) bool { return r <= ' ' || r > '~' }

// Delivery is one request.
type Delivery struct {
	// Action says what is attempted, for errors: "post to Slack".
	Action string
	// Path is added to the place's URL.
	Path        string
	ContentType string
	Header      http.Header
	Body        []byte
	// Secrets must not come back in an error. The URL need not be among them.
	Secrets []secret.String
}

// Send makes the request once: when it is made again is the engine's to say. Where there is no
// answer the error is a *notify.Failure.
func (p *Place) Send(ctx context.Context, d Delivery) (*Answer, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, permanent(d.Action, "the URL is none")
	}
	roots, err := egress.Authorities("tls_ca", p.CA)
	if err != nil {
		return nil, permanent(d.Action, err.Error())
	}
	header := d.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Content-Type", d.ContentType)
	header.Set("User-Agent", "vault-plugin-secrets-rotation")
	secrets := d.Secrets
	// What follows the host may be a secret. What is too short for one stands in any text.
	if path := u.RequestURI(); len(path) >= minSecret {
		secrets = append([]secret.String{secret.New(path)}, secrets...)
	}
	request := egress.Request{
		Action: d.Action, Method: http.MethodPost, URL: p.URL + d.Path, Header: header, Body: d.Body, Once: true, Secrets: secrets,
	}
	client := egress.New(egress.Options{AllowInsecureHTTP: p.Insecure, AllowedHosts: []string{u.Hostname()}, RootCAs: roots})
	defer client.Close()
	response, err := client.Do(ctx, request)
	if err != nil {
		return nil, &notify.Failure{Permanent: fault.Is(err, fault.Invalid), Reason: err.Error(), Err: err}
	}
	return &Answer{Response: response, request: request, host: u.Host}, nil
}

func permanent(action, why string) error {
	return &notify.Failure{Permanent: true, Reason: action + ": " + why}
}

// Answer is what came back.
type Answer struct {
	*egress.Response
	request egress.Request
	host    string
}

// OK tells whether the message was taken.
func (a *Answer) OK() bool { return a.Status >= 200 && a.Status < 300 }

// Failure is what an answer means that is not OK. It quotes what a service says, and not the
// page that something in between shows.
func (a *Answer) Failure(permanent bool) error {
	reason := fmt.Sprintf("%s: %s answered %d", a.request.Action, a.host, a.Status)
	switch said := a.request.Text(string(a.Body)); {
	case a.Status >= 300 && a.Status < 400:
		reason += ", a redirect, which is not followed"
	case said != "" && !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html"):
		reason += ": " + said
	}
	return &notify.Failure{Permanent: permanent, RetryAfter: a.RetryAfter, Reason: reason}
}
