package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

const (
	provisioner  = "slipway.dev/host-path"
	selectedNode = "volume.kubernetes.io/selected-node"
)

// volumes gives each claim of our storage class a folder of the node, as kind's local-path provisioner does, and takes
// folder and volume away once the claim is gone. Every pass recomputes from what the API server says, so it can be
// killed anywhere: the folder's name is the volume's, the volume's is the claim's uid.
type volumes struct {
	client  kubernetes.Interface
	folder  string
	node    string
	claims  cache.Indexer
	bound   cache.Indexer
	classes cache.Indexer
	queue   workqueue.TypedRateLimitingInterface[string]
}

func newVolumesCommand() *cobra.Command {
	var kubeconfig, folder, node string
	command := &cobra.Command{
		Use:          "volumes",
		Short:        "Gives claims of the class " + provisioner + " folders of this node",
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return runVolumes(command.Context(), client, folder, node)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&folder, "folder", "", "the folder that holds the volumes")
	command.Flags().StringVar(&node, "node", "", "this node's name")
	return command
}

func runVolumes(ctx context.Context, client kubernetes.Interface, folder, node string) error {
	if ctx == nil {
		ctx = context.Background()
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	persistent := factory.Core().V1().PersistentVolumes().Informer()
	classes := factory.Storage().V1().StorageClasses().Informer()
	v := &volumes{
		client: client, folder: folder, node: node,
		claims: claims.GetIndexer(), bound: persistent.GetIndexer(), classes: classes.GetIndexer(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	wake := func(prefix string) cache.ResourceEventHandlerFuncs {
		add := func(object any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
				v.queue.Add(prefix + key)
			}
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }, DeleteFunc: add}
	}
	if _, err := claims.AddEventHandler(wake("claim:")); err != nil {
		return err
	}
	if _, err := persistent.AddEventHandler(wake("volume:")); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		key, done := v.queue.Get()
		if done {
			return nil
		}
		if err := v.pass(ctx, key); err != nil {
			klog.ErrorS(err, "pass failed, trying again", "key", key)
			v.queue.AddRateLimited(key)
		} else {
			v.queue.Forget(key)
		}
		v.queue.Done(key)
	}
}

func (v *volumes) pass(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if name, ok := strings.CutPrefix(key, "claim:"); ok {
		object, exists, err := v.claims.GetByKey(name)
		if err != nil || !exists {
			return err
		}
		return v.provide(ctx, object.(*corev1.PersistentVolumeClaim))
	}
	name, _ := strings.CutPrefix(key, "volume:")
	object, exists, err := v.bound.GetByKey(name)
	if err != nil || !exists {
		return err
	}
	return v.take(ctx, object.(*corev1.PersistentVolume))
}

// provide writes the folder and then the volume of a claim that the scheduler has placed here.
func (v *volumes) provide(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.DeletionTimestamp != nil || claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil {
		return nil
	}
	object, exists, err := v.classes.GetByKey(*claim.Spec.StorageClassName)
	if err != nil || !exists {
		return err
	}
	class := object.(*storagev1.StorageClass)
	if class.Provisioner != provisioner || claim.Annotations[selectedNode] != v.node {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(v.folder, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask: pods run as any user
		return err
	}
	reclaim := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	kind := corev1.HostPathDirectory
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              class.Name,
			VolumeMode:                    claim.Spec.VolumeMode,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{v.node},
				}},
			}}}},
		},
	}
	_, err = v.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		klog.InfoS("volume given", "claim", klog.KObj(claim), "folder", path)
	}
	return err
}

// take removes the folder and the volume of a claim that is gone.
func (v *volumes) take(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisioner ||
		volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete ||
		volume.Spec.HostPath == nil {
		return nil
	}
	if filepath.Dir(volume.Spec.HostPath.Path) != filepath.Clean(v.folder) {
		return fmt.Errorf("volume %s is at %s, outside %s: left alone", volume.Name, volume.Spec.HostPath.Path, v.folder)
	}
	if err := os.RemoveAll(volume.Spec.HostPath.Path); err != nil {
		return err
	}
	err := v.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
