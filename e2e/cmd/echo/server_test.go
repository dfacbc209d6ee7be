package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"testing"
	"time"
)

// serving starts a server on sockets of the loopback.
func serving(t *testing.T) (*server, sockets) {
	t.Helper()
	on, err := listen(addresses{http: "127.0.0.1:0", tcp: "127.0.0.1:0", udp: ":0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := newServer(answer{Pod: "web-1", Node: "n1", Host: "h"})
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, on) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, on
}

func decode(t *testing.T, line []byte) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatalf("answer %q: %v", line, err)
	}
	return a
}

func TestEachTCPLineGetsAnAnswerOnTheSameConnection(t *testing.T) {
	_, on := serving(t)
	conn, err := net.Dial("tcp", on.tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	want := answer{
		Pod:      "web-1",
		Node:     "n1",
		Host:     "h",
		Protocol: "tcp",
		Address:  on.tcp.Addr().String(),
		Client:   conn.LocalAddr().String(),
	}
	for range 2 {
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if got := decode(t, line); got != want {
			t.Errorf("answer = %+v, want %+v", got, want)
		}
	}
}

func TestADatagramIsAnsweredFromTheAddressItWasSentTo(t *testing.T) {
	_, on := serving(t)
	_, port, err := net.SplitHostPort(on.udp4.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, port6, err := net.SplitHostPort(on.udp6.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	// 127.0.0.2 is not what the kernel would answer from by itself.
	for _, to := range []string{net.JoinHostPort("127.0.0.2", port), net.JoinHostPort("::1", port6)} {
		// A connected socket takes answers from that address only.
		conn, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, datagram)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("no answer from %s: %v", to, err)
		}
		want := answer{Pod: "web-1", Node: "n1", Host: "h", Protocol: "udp", Address: to, Client: conn.LocalAddr().String()}
		if got := decode(t, buffer[:n]); got != want {
			t.Errorf("answer = %+v, want %+v", got, want)
		}
	}
}

func TestHTTPReportsWhatAProxySaysOfItsClient(t *testing.T) {
	_, on := serving(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+on.http.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Forwarded-For", "192.0.2.1")
	request.Header.Set("X-Real-Ip", "192.0.2.2")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got answer
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := answer{
		Pod:          "web-1",
		Node:         "n1",
		Host:         "h",
		Protocol:     "http",
		Address:      on.http.Addr().String(),
		Client:       got.Client, // of a port that the kernel chose
		ForwardedFor: "192.0.2.1",
		RealIP:       "192.0.2.2",
	}
	if got != want {
		t.Errorf("answer is %+v, want %+v", got, want)
	}
}

func TestReadinessIsSwitchedAndEndsWithLeaving(t *testing.T) {
	s, on := serving(t)
	base := "http://" + on.http.Addr().String()
	for _, step := range []struct {
		do   func() error
		want int
	}{
		{func() error { return nil }, http.StatusOK},
		{func() error { return post(base + "/unready") }, http.StatusServiceUnavailable},
		{func() error { return post(base + "/ready") }, http.StatusOK},
		{func() error { s.leave(); return nil }, http.StatusServiceUnavailable},
		{func() error { return post(base + "/ready") }, http.StatusServiceUnavailable},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		response, err := http.Get(base + "/ready")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != step.want {
			t.Errorf("readiness = %d, want %d", response.StatusCode, step.want)
		}
	}
	response, err := http.Get(base + "/any/path")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var a answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil || a.Protocol != "http" || a.Pod != "web-1" {
		t.Errorf("answer while leaving = %+v, %v", a, err)
	}
}

func TestRunServesUntilTheDrainTimeHasPassed(t *testing.T) {
	told, tell := context.WithCancel(t.Context())
	tell()
	const drain = 200 * time.Millisecond
	begun := time.Now()
	if err := run(told, addresses{http: "127.0.0.1:0", tcp: "127.0.0.1:0", udp: ":0"}, drain); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < drain {
		t.Errorf("ended after %s, drain time is %s", took, drain)
	}
}

func post(url string) error {
	response, err := http.Post(url, "text/plain", nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
