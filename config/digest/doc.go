// Package digest is what the controller publishes of Nodes: as much of each as the speakers on
// other nodes need. A Node in full is more than 10 KB, and its kubelet writes it every five
// minutes. For N speakers that watch N Nodes that comes to N × N times as much.
//
// It is in ConfigMaps in Berth's namespace: one that says how fresh they are (see Heartbeat), and
// others with a share of the Nodes each (see Share), a line of JSON for a Node (see Encode).
package digest
