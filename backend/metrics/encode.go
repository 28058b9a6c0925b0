package metrics

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// Encode gives the text of a snapshot and its media type: OpenMetrics 1.0, unless the
// Accept headers ask for the older text. Prometheus' own binary form is not spoken.
func Encode(s *Snapshot, accept []string) (mediaType string, body []byte, err error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(collector{s}); err != nil {
		return "", nil, fmt.Errorf("collect metrics: %w", err)
	}
	families, err := registry.Gather()
	if err != nil {
		return "", nil, fmt.Errorf("collect metrics: %w", err)
	}
	format := negotiate(accept)
	var out bytes.Buffer
	encoder := expfmt.NewEncoder(&out, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return "", nil, fmt.Errorf("encode metrics: %w", err)
		}
	}
	if closer, ends := encoder.(expfmt.Closer); ends { // OpenMetrics has an end mark
		if err := closer.Close(); err != nil {
			return "", nil, fmt.Errorf("encode metrics: %w", err)
		}
	}
	return string(format), out.Bytes(), nil
}

var (
	openMetrics = expfmt.NewFormat(expfmt.TypeOpenMetrics)
	plainText   = expfmt.NewFormat(expfmt.TypeTextPlain)
)

// negotiate picks the format. Vault hands no Accept header on unless the mount is tuned to.
func negotiate(accept []string) expfmt.Format {
	if len(accept) == 0 {
		return openMetrics
	}
	return expfmt.NegotiateAccept(http.Header{"Accept": {strings.Join(accept, ",")}}, openMetrics, plainText)
}
