package kubeproxy

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// Mode returns the mode in which kube-proxy says that it runs, such as "nftables". It is "" if
// kube-proxy does not say, or if the URL is empty.
func Mode(url string) string {
	if url == "" {
		return ""
	}
	transport := &http.Transport{DisableKeepAlives: true} // without an HTTP proxy
	client := &http.Client{Timeout: time.Second, Transport: transport}
	response, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64))
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(text))
}
