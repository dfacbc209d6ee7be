package lines

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// side is one side of a conversation about numbers.
type side struct {
	say   chan int
	heard chan int
	wake  chan struct{}
}

func newSide(numbers ...int) side {
	s := side{say: make(chan int, 16), heard: make(chan int, 16), wake: make(chan struct{}, 1)}
	for _, n := range numbers {
		s.say <- n
	}
	return s
}

func (s side) talk() Talk[int, int] {
	return Talk[int, int]{
		Wake: s.wake,
		Next: func() (int, bool) {
			select {
			case n := <-s.say:
				return n, true
			default:
				return 0, false
			}
		},
		Hear: func(n int) error { s.heard <- n; return nil },
	}
}

func TestTalk(t *testing.T) {
	ours, theirs := net.Pipe()
	a, b := newSide(1, 2), newSide()
	ctx, end := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan error)
	go func() { // ends with ctx
		talk := a.talk()
		talk.Farewell = new(99)
		first <- talk.Over(ctx, ours)
	}()
	go func() { // ends when it hears the farewell
		talk := b.talk()
		talk.Hear = func(n int) error {
			b.heard <- n
			if n == 99 {
				return errors.New("they part")
			}
			return nil
		}
		second <- talk.Over(t.Context(), theirs)
	}()
	heard := []int{<-b.heard, <-b.heard}
	b.say <- 7
	b.wake <- struct{}{}
	if n := <-a.heard; n != 7 {
		t.Errorf("heard %d, want 7", n)
	}
	a.say <- 3 // without a word that it is there: it is said before the farewell
	end()
	if err := <-first; err != nil {
		t.Errorf("the side whose context ended: %v", err)
	}
	if err := <-second; err == nil || err.Error() != "they part" {
		t.Errorf("the other side: %v", err)
	}
	heard = append(heard, <-b.heard, <-b.heard)
	if want := []int{1, 2, 3, 99}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

func TestTalkEndsWithTheOtherSide(t *testing.T) {
	ours, theirs := net.Pipe()
	done := make(chan error)
	go func() { done <- newSide().talk().Over(t.Context(), ours) }() // ends with theirs
	_ = theirs.Close()
	if err := <-done; !errors.Is(err, ErrEnded) {
		t.Errorf("%v, want ErrEnded", err)
	}
}

func TestTalkWithoutFarewellEndsWhenAllIsSaid(t *testing.T) {
	ours, theirs := net.Pipe()
	ctx, end := context.WithCancel(t.Context())
	end()
	done := make(chan error)
	go func() { done <- newSide(1, 2).talk().Over(ctx, ours) }() // ends with ctx
	text, err := io.ReadAll(theirs)
	if err != nil || string(text) != "1\n2\n" {
		t.Errorf("read %q, %v", text, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFirst(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() { _, _ = theirs.Write([]byte("1\n2\n3\n")) }() // ends when it is read
	n, rest, err := First[int](ours, time.Minute)
	if err != nil || n != 1 {
		t.Fatalf("the first is %d, %v", n, err)
	}
	s := newSide()
	go func() { _ = s.talk().Over(t.Context(), rest) }() // ends with theirs
	if heard := []int{<-s.heard, <-s.heard}; !slices.Equal(heard, []int{2, 3}) {
		t.Errorf("heard %v, want 2 and 3", heard)
	}
	_ = theirs.Close()
	if _, _, err := First[int](ours, time.Minute); err == nil {
		t.Error("a connection that has ended has a first word")
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	for range 2 { // the second in the place of what a process left that was killed
		l, err := Listen(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		defer l.Close()
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	conn, err := Dial(path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
