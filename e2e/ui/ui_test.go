//go:build release

// Package ui tests the page of kubectl berth ui in Chromium, on the lab.
package ui

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// record has the screenshots written into the documentation.
var record = flag.Bool("record", false, "write the screenshots into docs/guides/img")

// patience is for what takes a moment on an idle machine, on a very busy one.
const patience = 120 * time.Second

var web = stage.App{Namespace: "shop", Name: "web"} // one Pod on every node

func raise(t *testing.T) *stage.Stage {
	t.Helper()
	name := os.Getenv("BERTH_LAB")
	l, err := lab.Open(name)
	if name == "" {
		l, err = lab.Up(t.Context(), lab.Options{Name: "ui", Nodes: 3, Router: "frr", DualStack: true, Log: t.Output()})
	}
	if err != nil {
		t.Fatal(err)
	}
	if name == "" {
		t.Cleanup(func() {
			if err := l.Down(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	s, err := stage.New(l, true)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// prepare installs Berth with Services that are well, one that has no Pods, and one that is routed.
func prepare(t *testing.T, s *stage.Stage) {
	t.Helper()
	for _, step := range []func(context.Context) error{
		s.Install, s.Configure,
		func(ctx context.Context) error { return s.AwaitSpeakers(ctx, true) },
		func(ctx context.Context) error { return s.Deploy(ctx, web) },
	} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"web", "api", "mail", "search"} {
		if _, err := s.Create(t.Context(), s.Expose(web, name)); err != nil {
			t.Fatal(err)
		}
	}
	broken := s.Expose(web, "checkout")
	broken.Spec.Selector = map[string]string{"app": "checkout"}
	routed := s.Expose(web, "cdn")
	routed.Annotations = map[string]string{"berth.dev/pools": stage.RoutedPool}
	for _, svc := range []func() error{
		func() error { _, err := s.Create(t.Context(), broken); return err },
		func() error { _, err := s.Create(t.Context(), routed); return err },
	} {
		if err := svc(); err != nil {
			t.Fatal(err)
		}
	}
}

// serve runs kubectl berth ui where the API server is reached, and lets this machine's own loopback
// address lead there by the same port, since the page wants to be called by it. It returns the URL.
func serve(t *testing.T, s *stage.Stage) string {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, folder.Bin("kubectl-berth"), "ui")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig())
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = s.In(lab.ControlPlane, cmd.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", at.Host)
	if err != nil {
		t.Fatal(err)
	}
	var work errgroup.Group
	work.Go(func() error {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return nil // closed below
			}
			work.Go(func() error { forward(ctx, s, conn, at.Host); return nil })
		}
	})
	t.Cleanup(func() {
		stop()
		if err := cmd.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("after ctrl-c kubectl berth ui ended with %v, want the exit code 0", err)
		}
		_ = listener.Close()
		_ = work.Wait()
	})
	return at.String()
}

// forward carries bytes until either side has closed.
func forward(ctx context.Context, s *stage.Stage, conn net.Conn, address string) {
	defer conn.Close()
	to, err := s.Dial(ctx, lab.ControlPlane, "tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	var ways errgroup.Group
	for _, way := range [][2]net.Conn{{conn, to}, {to, conn}} {
		ways.Go(func() error {
			_, err := io.Copy(way[0], way[1])
			_ = way[0].Close()
			return err
		})
	}
	_ = ways.Wait() // a browser leaves when it likes
}

// browse starts a browser. What its console complains of, and a request to anywhere else, fails the
// test.
func browse(t *testing.T, origin string) context.Context {
	t.Helper()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	browser, err := folder.FetchBrowser(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser.Program), chromedp.Env(browser.Env...),
		chromedp.NoSandbox, // its sandbox does not run as root
		chromedp.WindowSize(1360, 1000),
	)...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	err = chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page threw %+v", e.ExceptionDetails)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError {
				t.Errorf("the browser says %s (%s)", e.Entry.Text, e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, origin+"/") {
				t.Errorf("the page asked for %s", e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// do runs actions in the browser.
func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// ask evaluates an expression in the page.
func ask[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	answer, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return answer
}

// await waits until an expression is true in the page.
func await(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	if err := stage.Eventually(t.Context(), patience, func(context.Context) error {
		if !ask[bool](t, ctx, expression) {
			return fmt.Errorf("not so in the page: %s", expression)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// enableNetwork has the browser report requests.
func enableNetwork(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
	_, err := cdp.Call(ctx, target, network.Enable, network.EnableParams{})
	return chromedp.Void{}, err
}

// prefer makes the system light or dark, as far as the browser knows.
func prefer(theme string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}},
		})
		return chromedp.Void{}, err
	}
}

func TestPage(t *testing.T) {
	s := raise(t)
	if os.Getenv("BERTH_LAB") == "" {
		prepare(t, s)
	}
	address := serve(t, s)
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx := browse(t, "http://"+at.Host)
	do(t, ctx, enableNetwork, chromedp.Navigate(address), chromedp.WaitVisible(chromedp.CSS(".chip")))
	if got := ask[string](t, ctx, "location.href"); got != "http://"+at.Host+"/" {
		t.Errorf("the address bar has %s, want no token", got)
	}
	// The tab still has it when the page is loaded again.
	do(t, ctx, chromedp.Navigate("http://"+at.Host+"/"), chromedp.WaitVisible(chromedp.CSS(".chip")))
	await(t, ctx, `document.querySelectorAll("#drawing .sessions .up").length === 3`)
	await(t, ctx, `document.querySelector("#service-rows .health.failure") !== null`)

	t.Run("keyboard", func(t *testing.T) { keyboard(t, ctx) })
	var node string
	t.Run("failover", func(t *testing.T) { node = failover(t, ctx, s) })
	// It cannot report anymore, so Kubernetes has to find out.
	await(t, ctx, `document.querySelectorAll("#drawing .troubled, #drawing .sessions .unknown").length === 2`)
	t.Run("themes", func(t *testing.T) { themes(t, ctx) })
	if err := s.Heal(node); err != nil {
		t.Fatal(err)
	}
	await(t, ctx, `document.querySelectorAll("#drawing .sessions .up").length === 3`)
}

// Every part is reached by the Tab key, rows of a table by the arrow keys, and Enter follows a
// Service.
func keyboard(t *testing.T, ctx context.Context) {
	do(t, ctx, chromedp.Focus(chromedp.CSS("#theme")))
	focused := func() string {
		return ask[string](t, ctx, `(() => { const e = document.activeElement; return e.closest("svg") ? "map" : e.id || e.parentElement.id })()`)
	}
	seen := map[string]bool{}
	for range 40 {
		do(t, ctx, chromedp.KeyEvent(kb.Tab))
		seen[focused()] = true
		if seen["service-rows"] {
			break
		}
	}
	for _, part := range []string{"map", "entries", "session-rows", "only-problems", "filter", "service-rows"} {
		if !seen[part] {
			t.Errorf("the Tab key reaches %v, want %s, too", seen, part)
		}
	}
	row := func() int {
		return ask[int](t, ctx, `[...document.querySelector("#service-rows").children].indexOf(document.activeElement)`)
	}
	for _, step := range []struct {
		key  string
		want int
	}{{kb.ArrowDown, 1}, {kb.ArrowDown, 2}, {kb.ArrowUp, 1}, {kb.Home, 0}} {
		do(t, ctx, chromedp.KeyEvent(step.key))
		if got := row(); got != step.want {
			t.Errorf("after %q row %d has the focus, want %d", step.key, got, step.want)
		}
	}
	if outline := ask[string](t, ctx, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("the focus shows by outline %s", outline)
	}
	do(t, ctx, chromedp.KeyEvent(kb.Enter))
	await(t, ctx, `document.querySelector("#why").open && document.querySelector("#why .steps li") !== null`)
	do(t, ctx, chromedp.KeyEvent(kb.Escape))
	await(t, ctx, `!document.querySelector("#why").open`)
	if got := row(); got != 0 {
		t.Errorf("after the dialog row %d has the focus, want 0 as before", got)
	}
}

// A node that is cut loses its addresses before the user's eyes. It returns that node.
func failover(t *testing.T, ctx context.Context, s *stage.Stage) string {
	const chip = `document.querySelector("#drawing .chip")`
	moved := netip.MustParseAddr(ask[string](t, ctx, chip+".dataset.address"))
	node := ask[string](t, ctx, chip+".dataset.node")
	ask[bool](t, ctx, fmt.Sprintf(`
		new MutationObserver(() => { window.movedAt ??= performance.timeOrigin + performance.now(); })
			.observe(document.querySelector('[data-address="%s"]'), { attributes: true, attributeFilter: ["data-node"] });
		true`, moved))

	owners, err := s.Berth.L2Owners.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer owners.Stop()
	begun := time.Now()
	if err := s.Cut(node); err != nil {
		t.Fatal(err)
	}
	var changed time.Time
	var owner string
	for deadline := time.After(patience); owner == ""; {
		select {
		case event := <-owners.ResultChan():
			o, ok := event.Object.(*v1alpha1.L2Owner)
			if ok && o.Status.Address == moved.String() && o.Status.NodeName != node {
				changed, owner = time.Now(), o.Status.NodeName
			}
		case <-deadline:
			t.Fatalf("nobody took %s from %s", moved, node)
		}
	}
	await(t, ctx, fmt.Sprintf(`window.movedAt > 0 && document.querySelector('[data-address="%s"]').dataset.node === %q`,
		moved, owner))
	shown := time.UnixMicro(int64(ask[float64](t, ctx, "window.movedAt") * 1000))
	fmt.Printf("ui/owner_change_seen %.4g ms\n", shown.Sub(changed).Seconds()*1000)
	fmt.Printf("ui/cut_seen %.4g ms\n", shown.Sub(begun).Seconds()*1000)
	if late := shown.Sub(begun); late > time.Second {
		t.Errorf("the picture changed %v after the cut, want a second at most; the owner was written after %v",
			late, changed.Sub(begun))
	}
	await(t, ctx, fmt.Sprintf(`[...document.querySelectorAll("#entries li")].some((e) =>
		e.textContent.includes("moved from node %s to node %s"))`, node, owner))
	news := ask[string](t, ctx, `document.querySelector("#news").textContent`)
	if !strings.Contains(news, "moved from node "+node) {
		t.Errorf("a screen reader is told %q", news)
	}
	return node
}

// paletted returns a picture with its 256 most frequent colors: a page has few, and shades between.
func paletted(picture image.Image) image.Image {
	counts := map[color.Color]int{}
	bounds := picture.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[picture.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	few := image.NewPaletted(bounds, colors[:min(256, len(colors))])
	draw.Draw(few, bounds, picture, bounds.Min, draw.Src)
	return few
}

// screenshot writes the whole page into the documentation, once nothing moves.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	await(t, ctx, "document.getAnimations().length === 0")
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&small, paletted(picture)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "docs", "guides", "img", "ui-"+name+".png")
	if err := os.WriteFile(file, small.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The page is as light or dark as the system, unless the button says otherwise.
func themes(t *testing.T, ctx context.Context) {
	background := func() string { return ask[string](t, ctx, "getComputedStyle(document.body).backgroundColor") }
	const light, dark = "rgb(244, 246, 248)", "rgb(16, 21, 27)"
	for theme, want := range map[string]string{"light": light, "dark": dark} {
		do(t, ctx, prefer(theme))
		if got := background(); got != want {
			t.Errorf("for a system that is %s the page is %s, want %s", theme, got, want)
		}
		if *record {
			screenshot(t, ctx, theme)
		}
	}
	do(t, ctx, prefer("dark"), chromedp.Click(chromedp.CSS("#theme")))
	if got := background(); got != light {
		t.Errorf("switched to light the page is %s", got)
	}
	do(t, ctx, chromedp.Click(chromedp.CSS("#theme")), prefer("light"))
	if got := background(); got != dark {
		t.Errorf("switched to dark the page is %s", got)
	}
}
